"""The strict mode of the interpreter: each access of each program checked, a failure reported like a compiler error.

>>> with strict():
...     my_kernel[grid](x, out, n, BLOCK=128)
"""

from tinyflow.kernels.interpreter.checks.mode import check_fresh as check_fresh
from tinyflow.kernels.interpreter.checks.mode import check_written as check_written
from tinyflow.kernels.interpreter.checks.mode import disable as disable
from tinyflow.kernels.interpreter.checks.mode import enable as enable
from tinyflow.kernels.interpreter.checks.mode import enable_if_wanted as enable_if_wanted
from tinyflow.kernels.interpreter.checks.mode import enabled as enabled
from tinyflow.kernels.interpreter.checks.mode import fresh as fresh
from tinyflow.kernels.interpreter.checks.mode import strict as strict
from tinyflow.kernels.interpreter.checks.report import StrictError as StrictError
