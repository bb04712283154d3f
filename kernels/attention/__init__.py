"""Scaled dot-product attention without the matrix of scores in memory, forward and backward.

    out = D softmax(scale · query keyᵀ + mask) value

D drops probabilities and divides the others by 1 − p. A program holds a tile of queries and walks over the keys, keeping for
each query the largest score so far, the sum of exponentials below it, and the output, all rescaled when the largest grows
(Milakov & Gimelshein 2018; Rabe & Staats 2021; Dao et al. 2022, "FlashAttention"). It leaves the log of that sum, from
which the backward pass makes the probabilities P anew (Dao 2023, section 3): with dP = D (g valueᵀ) and δ = Σ g · out,

    grad_value = (D P)ᵀ g      dS = P · (dP − δ)      grad_query = scale · dS key      grad_key = scale · dSᵀ query

and dS is the gradient of the mask. Exponentials are powers of two. What D drops is counted, not saved: element
(row, n) takes word ``n mod 4`` of Philox's counter ``row · ⌈S / 4⌉ + ⌊n / 4⌋``, as ``random.dropout`` does on a matrix whose
rows are filled up to a multiple of four.

Query heads that share a key head are a dimension of their own: query (\\*batch, G, L, E), key (\\*batch, S, E), value
(\\*batch, S, V). Everything may have any strides.
"""

from tinyflow.kernels.attention.forward import attention as attention
from tinyflow.kernels.attention.gradient import attention_grad as attention_grad
from tinyflow.kernels.attention.problem import MAX_HEAD_DIM as MAX_HEAD_DIM
from tinyflow.kernels.attention.problem import counters as counters
