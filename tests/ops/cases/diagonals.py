"""Triangles and diagonals of matrices that are no squares."""

import torch

from tests.ops.case import case

BATCH = (2, 3, 5)

CASES = [
    case("tril", (BATCH,), torch=torch.tril),
    case("tril", ((5, 3),), torch=torch.tril, diagonal=-2, label="below"),
    case("triu", (BATCH,), torch=torch.triu, diagonal=1, label="above"),
    case("triu", ((4, 0),), torch=torch.triu, gradient=False, label="empty"),
    case("diag", ((3,),), torch=torch.diag, diagonal=-1, label="vector"),
    case("diag", ((3, 5),), torch=torch.diag, diagonal=2, label="matrix"),
    case("diagflat", ((2, 3),), torch=torch.diagflat, offset=1),
    case("diag_embed", ((2, 3),), torch=torch.diag_embed),
    case("diag_embed", ((2, 3),), torch=torch.diag_embed, offset=-1, dim1=0, dim2=2, label="dims"),
    case("trace", ((3, 5),), torch=torch.trace, length=3),
    case("diagonal_scatter", (BATCH, (3, 2)), torch=torch.diagonal_scatter, offset=1, dim1=0, dim2=2),
    case("select_scatter", (BATCH, (2, 5)), torch=torch.select_scatter, dim=1, index=-1),
    case("slice_scatter", (BATCH, (2, 3, 2)), torch=torch.slice_scatter, dim=2, start=-4, end=10, step=2),
]
