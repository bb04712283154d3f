"""autograd.functional and tinyflow.func: products, Jacobians and Hessians, against torch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import tinyflow
from tinyflow import func, nn
from tinyflow.autograd import functional

# torch's own, at its first use of forward mode
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

BOTH = pytest.mark.parametrize("m", [tinyflow, torch], ids=["tinyflow", "torch"])


def given(m: Any, *shape: int, seed: int = 0, requires_grad: bool = False) -> Any:
    values = np.random.default_rng(seed).standard_normal(shape)
    return m.tensor(values, dtype=m.float64, requires_grad=requires_grad)


def same(program: Callable[[Any], Any]) -> None:
    """A program gives the same structure of tensors with both modules."""
    ours, theirs = (program(m) for m in (tinyflow, torch))
    _compare(ours, theirs)


def _compare(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, torch.Tensor):
        assert ours.requires_grad == theirs.requires_grad and tuple(ours.shape) == tuple(theirs.shape)
        np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=1e-10, atol=1e-12)
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            _compare(ours[key], theirs[key])
    else:
        assert type(ours) is type(theirs) and len(ours) == len(theirs)
        for a, b in zip(ours, theirs):
            _compare(a, b)


def _vector(m: Any, x: Any, y: Any) -> Any:
    """Two inputs, one vector."""
    return m.exp(x) * (y @ x)


def _pair(m: Any, x: Any, y: Any) -> Any:
    """Two inputs, two outputs of other shapes."""
    return (x * x).sum() * y.T, m.sin(x)[1:]


def _scalar(m: Any, x: Any, y: Any) -> Any:
    return (m.exp(x) * (y @ x)).sum() + (y * y * y).sum()


# ---- autograd.functional -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("name", ["vjp", "jvp"])
def test_products(name: str, create_graph: bool) -> None:
    def one(m: Any) -> Any:
        product = getattr(m.autograd.functional, name)
        x, v = given(m, 3, requires_grad=create_graph), given(m, 3, seed=1)
        return product(lambda x: m.sin(x) * x.sum(), x, v, create_graph=create_graph)

    def several(m: Any) -> Any:
        product = getattr(m.autograd.functional, name)
        x, y = given(m, 3), given(m, 3, 3, seed=1)
        shapes = ((3, 3), (2,)) if name == "vjp" else ((3,), (3, 3))
        return product(lambda x, y: _pair(m, x, y), (x, y), tuple(given(m, *s, seed=2) for s in shapes))

    same(one)
    same(several)


@pytest.mark.parametrize("name", ["hvp", "vhp"])
def test_products_with_the_hessian(name: str) -> None:
    def program(m: Any) -> Any:
        product = getattr(m.autograd.functional, name)
        x, y = given(m, 3), given(m, 3, 3, seed=1)
        vectors = given(m, 3, seed=2), given(m, 3, 3, seed=3)
        return (
            product(lambda x, y: _scalar(m, x, y), (x, y), vectors),
            product(lambda x: _scalar(m, x, y), x, vectors[0], create_graph=True),
        )

    same(program)


def test_jacobians_and_hessians() -> None:
    def program(m: Any) -> Any:
        f = m.autograd.functional
        x, y = given(m, 3), given(m, 3, 3, seed=1)
        return (
            f.jacobian(lambda x: m.sin(x) * x.sum(), x),
            f.jacobian(lambda x, y: _vector(m, x, y), (x, y)),
            f.jacobian(lambda x: _pair(m, x, y), x),
            f.jacobian(lambda x, y: _pair(m, x, y), (x, y)),
            f.jacobian(lambda x: m.sin(x), given(m, 3, requires_grad=True), create_graph=True),
            f.hessian(lambda x: _scalar(m, x, y), x),
            f.hessian(lambda x, y: _scalar(m, x, y), (x, y)),
            f.jacobian(lambda x: m.zeros(2, dtype=m.float64), x),
        )

    same(program)


def test_jacobian_with_create_graph_is_differentiable() -> None:
    for m in (tinyflow, torch):
        x = given(m, 3, requires_grad=True)
        m.autograd.functional.jacobian(lambda x: x**3, x, create_graph=True).sum().backward()
        np.testing.assert_allclose(x.grad.tolist(), 6 * x.detach().numpy())


@BOTH
def test_strict(m: Any) -> None:
    f, x = m.autograd.functional, given(m, 2)
    with pytest.raises(RuntimeError, match="does not require gradients"):
        f.vjp(lambda x: m.ones(()), x, strict=True)
    with pytest.raises(RuntimeError, match="is independent of"):
        f.jacobian(lambda x, y: x * 2, (x, x), strict=True)
    with pytest.raises(RuntimeError, match="independent of"):
        f.hessian(lambda x: x.sum(), x, strict=True)


@BOTH
def test_errors(m: Any) -> None:
    f, x = m.autograd.functional, given(m, 2)
    with pytest.raises(TypeError, match="inputs given to jacobian must be either a Tensor or a tuple of Tensors"):
        f.jacobian(lambda x: x, 3.0)
    with pytest.raises(TypeError, match="outputs of the user-provided function"):
        f.vjp(lambda x: 3.0, x)
    with pytest.raises(RuntimeError, match="v can only be None|vector v can only be None"):
        f.vjp(lambda x: x * 2, x)
    with pytest.raises(RuntimeError, match="invalid (size|length)|should be"):
        f.jvp(lambda x: x * 2, x, given(m, 3))
    with pytest.raises(RuntimeError, match="contain a single element"):
        f.hessian(lambda x: x * 2, x)


def test_what_is_not_there() -> None:
    for call in (functional.jacobian, functional.hessian):
        with pytest.raises(NotImplementedError, match="only vectorize=False with reverse mode"):
            call(lambda x: x.sum(), given(tinyflow, 2), vectorize=True)


# ---- tinyflow.func -------------------------------------------------------------------------------------------------


def test_gradients() -> None:
    def program(m: Any) -> Any:
        x, y = given(m, 3), given(m, 3, 3, seed=1)

        def f(x: Any, y: Any) -> Any:
            return _scalar(m, x, y)

        return (
            m.func.grad(f)(x, y),
            m.func.grad(f, argnums=(0, 1))(x, y),
            m.func.grad(f, argnums=-1)(x, y),
            m.func.grad_and_value(f)(x, y),
            m.func.grad(lambda x: (m.sin(x).sum(), {"twice": x * 2}), has_aux=True)(x),
            m.func.grad_and_value(lambda x: (m.sin(x).sum(), x), has_aux=True)(x),
            m.func.grad(lambda d: (d["a"] * d["b"][0]).sum())({"a": x, "b": [y[0]]}),
        )

    same(program)


def test_nested_gradients() -> None:
    def program(m: Any) -> Any:
        def third(x: Any) -> Any:
            return m.func.grad(m.func.grad(m.func.grad(lambda x: m.exp(2 * x) * x)))(x)

        def mixed(x: Any, y: Any) -> Any:
            return m.func.grad(lambda y: m.func.grad(lambda x: (x * x * y * y).sum())(x).sum())(y)

        return third(given(m)), mixed(given(m, 2), given(m, 2, seed=1))

    same(program)


def test_history_of_what_lies_outside() -> None:
    """A gradient in a closure, a plain backward pass through a transformation, and results without any history."""

    def program(m: Any) -> Any:
        w, x = given(m, 3, requires_grad=True), given(m, 3, seed=1)
        inner = m.func.grad(lambda x: (x * x * w).sum())(x)
        inner.sum().backward()
        z = given(m, 3, seed=2, requires_grad=True)
        m.func.grad(lambda x: (x**3).sum())(z).sum().backward()
        return inner, w.grad, z.grad, m.func.grad(lambda x: (x * x).sum())(x)

    same(program)


def test_vjp_and_jvp() -> None:
    def program(m: Any) -> Any:
        x, y = given(m, 3), given(m, 3, 3, seed=1)
        output, pull = m.func.vjp(lambda x, y: _pair(m, x, y), x, y)
        single, pull_single, aux = m.func.vjp(lambda x: (m.sin(x), x * 2), x, has_aux=True)
        vectors = given(m, 3, 3, seed=2), given(m, 2, seed=3)
        return (
            output,
            pull(vectors),
            pull(tuple(2 * v for v in vectors)),
            (single, pull_single(x), aux),
            m.func.jvp(lambda x, y: _pair(m, x, y), (x, y), (given(m, 3, seed=4), given(m, 3, 3, seed=5))),
            m.func.jvp(lambda x: (m.sin(x), x), (x,), (x,), has_aux=True),
        )

    same(program)


@pytest.mark.parametrize("name", ["jacrev", "jacfwd"])
def test_jacobians(name: str) -> None:
    def program(m: Any) -> Any:
        jac = getattr(m.func, name)
        x, y = given(m, 3), given(m, 3, 3, seed=1)
        return (
            jac(lambda x: m.sin(x) * x.sum())(x),
            jac(lambda x, y: _vector(m, x, y), argnums=(0, 1))(x, y),
            jac(lambda x, y: _pair(m, x, y), argnums=1)(x, y),
            jac(lambda x: {"a": x * 2, "b": [x.sum()]})(x),
            jac(lambda x: (m.exp(x), x), has_aux=True)(x),
        )

    same(program)


def test_hessians_and_compositions() -> None:
    def program(m: Any) -> Any:
        x, y = given(m, 3), given(m, 3, 3, seed=1)

        def f(x: Any, y: Any) -> Any:
            return _scalar(m, x, y)

        return (
            m.func.hessian(f)(x, y),
            m.func.hessian(f, argnums=(0, 1))(x, y),
            m.func.jacrev(m.func.jacfwd(f))(x, y),
            m.func.grad(lambda x: m.func.jvp(lambda z: f(z, y), (x,), (x,))[1])(x),
            m.func.jacrev(lambda x: m.func.vjp(lambda z: m.sin(z), x)[1](x)[0])(x),
        )

    same(program)


@BOTH
def test_wrong_calls(m: Any) -> None:
    x = given(m, 2)
    with pytest.raises(RuntimeError, match="Expected f\\(\\*args\\) to return a scalar [tT]ensor"):
        m.func.grad(lambda x: x)(x)
    with pytest.raises(RuntimeError, match="Expected f\\(\\*args\\) to return a [tT]ensor"):
        m.func.grad(lambda x: 3.0)(x)
    with pytest.raises(RuntimeError, match="positional inputs"):
        m.func.grad(lambda x: x.sum(), argnums=1)(x)
    with pytest.raises(RuntimeError, match="must be unique"):
        m.func.grad(lambda x, y: x.sum(), argnums=(0, 0))(x, x)


def test_wrong_vectors() -> None:
    x = given(tinyflow, 2)
    _, pull = func.vjp(lambda x: x * 2, x)
    with pytest.raises(RuntimeError, match=r"vjp: expected vectors of shapes \[\(2,\)\], got \[\(3,\)\]"):
        pull(given(tinyflow, 3))
    with pytest.raises(RuntimeError, match="expected primals and tangents to be tuples"):
        func.jvp(lambda x: x, x, x)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="strict=True"):
        func.jvp(lambda x: tinyflow.ones(1), (x,), (x,), strict=True)
    with pytest.raises(NotImplementedError, match="randomness"):
        func.jacfwd(lambda x: x, randomness="same")


def test_modules_as_functions() -> None:
    model, x = nn.Linear(3, 2), tinyflow.ones(4, 3)
    own = dict(model.named_parameters())
    other = {name: tinyflow.ones(*p.shape) for name, p in own.items()}
    assert func.functional_call(model, other, x).tolist() == [[4.0, 4.0]] * 4
    assert dict(model.named_parameters()) == own and model.weight is own["weight"]
    gradients = func.grad(lambda p: func.functional_call(model, p, (x,)).sum())(other)
    assert gradients["weight"].tolist() == [[4.0] * 3] * 2 and gradients["bias"].tolist() == [4.0, 4.0]
    assert model.weight.grad is None
    only = func.functional_call(model, {"bias": tinyflow.zeros(2)}, x)
    np.testing.assert_allclose(only.detach().numpy(), (x @ model.weight.T).detach().numpy(), rtol=1e-6)


def test_modules_with_buffers_ties_and_errors() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(2, 2, bias=False)
            self.b = nn.Linear(2, 2, bias=False)
            self.b.weight = self.a.weight
            self.register_buffer("shift", tinyflow.ones(2))

        def forward(self, x: Any, scale: float = 1.0) -> Any:
            return self.b(self.a(x)) * scale + self.shift

    model, x = Tied(), tinyflow.ones(1, 2)
    twos = {"a.weight": 2 * tinyflow.eye(2), "shift": tinyflow.zeros(2)}
    assert func.functional_call(model, twos, x, {"scale": 0.5}).tolist() == [[2.0, 2.0]]
    assert func.functional_call(model, [{"a.weight": twos["a.weight"]}, {"shift": twos["shift"]}], x).tolist() == [
        [4.0] * 2
    ]
    with pytest.raises(KeyError, match="no parameters or buffers of Tied"):
        func.functional_call(model, {"c": tinyflow.ones(1)}, x)
    with pytest.raises(KeyError, match="strict=True, but \\['shift'\\] are missing"):
        func.functional_call(model, {"a.weight": twos["a.weight"]}, x, strict=True)
    with pytest.raises(ValueError, match="appear in more than one dictionary"):
        func.functional_call(model, [twos, twos], x)
    with pytest.raises(RuntimeError):
        func.functional_call(model, {"a.weight": tinyflow.ones(3, 3)}, x)
    assert model.a.weight is model.b.weight and model.shift.tolist() == [1.0, 1.0], "put back after an error"
