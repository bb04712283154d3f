"""Products of matrices and vectors."""

import torch
import torch.nn.functional as F

from tests.ops.case import case

CASES = [
    case("matmul", ((3, 5), (5, 7)), torch=torch.matmul, length=5),
    case("matmul", ((5,), (5,)), torch=torch.matmul, length=5),
    case("matmul", ((5,), (5, 4)), torch=torch.matmul, length=5),
    case("matmul", ((3, 5), (5,)), torch=torch.matmul, length=5),
    case("matmul", ((5,), (2, 3, 5, 4)), torch=torch.matmul, length=5),
    case("matmul", ((2, 3, 4, 5), (5,)), torch=torch.matmul, length=5),
    case("matmul", ((2, 3, 4, 5), (5, 2)), torch=torch.matmul, length=5, label="shared matrix"),
    case("matmul", ((2, 1, 4, 5), (3, 5, 2)), torch=torch.matmul, length=5, label="broadcast batches"),
    case("matmul", ((4, 5), (3, 5, 2)), torch=torch.matmul, length=5),
    case("matmul", ((1, 1), (1, 1)), torch=torch.matmul),
    case("matmul", ((3, 0), (0, 4)), torch=torch.matmul, gradient=False),
    case("mm", ((37, 41), (41, 17)), torch=torch.mm, length=41),
    case("bmm", ((3, 4, 5), (3, 5, 2)), torch=torch.bmm, length=5),
    case("mv", ((4, 5), (5,)), torch=torch.mv, length=5),
    case("dot", ((19,), (19,)), torch=torch.dot, length=19),
    case("addmm", ((7,), (3, 5), (5, 7)), torch=torch.addmm, length=6),
    case("addmm", ((3, 1), (3, 5), (5, 7)), torch=torch.addmm, length=6, beta=0.5, alpha=-2, label="scaled"),
    case("addmm", ((3, 7), (3, 5), (5, 7)), torch=torch.addmm, length=6, beta=0, label="input unread", gradient=False),
    case("linear", ((3, 5), (7, 5), (7,)), torch=F.linear, length=6),
    case("linear", ((2, 3, 4, 5), (7, 5), (7,)), torch=F.linear, length=6),
    case("linear", ((3, 5), (7, 5), None), torch=F.linear, length=5, label="no bias"),
    case("linear", ((5,), (7, 5), (7,)), torch=F.linear, length=6),
    case("linear", ((3, 5), (5,), None), torch=F.linear, length=5, label="one output"),
]
