"""Data sets of labelled images on the host, and the loader that makes batches of them."""

from tinyflow.data.augment import Augment as Augment
from tinyflow.data.dataset import ArrayDataset as ArrayDataset
from tinyflow.data.dataset import DataError as DataError
from tinyflow.data.dataset import Dataset as Dataset
from tinyflow.data.dataset import Splits as Splits
from tinyflow.data.detect import open_data as open_data
from tinyflow.data.digits import digits as digits
from tinyflow.data.image import read_image as read_image
from tinyflow.data.image_folder import ImageFolder as ImageFolder
from tinyflow.data.loader import Loader as Loader
from tinyflow.data.normalize import Normalize as Normalize
