"""The recorded graph as text in Graphviz's DOT language: what is drawn, how it is labelled, and what is folded."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tinyflow.autograd.graph import AccumulateGrad, Edge, Node, OutputInfo
from tinyflow.autograd.module_calls import ModuleCall, ModuleCalls
from tinyflow.autograd.saved import SavedTensor

#: So many boxes are readable; ``fold="auto"`` folds modules until there are no more.
READABLE = 48

_GRAPH = 'rankdir="{rankdir}" fontname="Helvetica" fontsize="10" nodesep="0.25" ranksep="0.3"'
_NODE = 'shape="box" style="rounded,filled" fontname="Helvetica" fontsize="10" margin="0.1,0.05" height="0.3" color="{line}"'
_EDGE = 'fontname="Helvetica" fontsize="8" color="#5b6472" fontcolor="#5b6472" arrowsize="0.6"'
_LINE, _KEPT = "#5b6472", "#e08a1e"
_COLOURS = {
    "operation": "#eef1f5",
    "module": "#e3dcf5",
    "parameter": "#cfe3fb",
    "leaf": "#cdeedd",
    "saved": "#ffe2bf",
    "output": "#ffd0cf",
}
_CLUSTERS = ("#fbfbfd", "#f4f5f9")

Unit = Node | ModuleCall  # what is drawn as one box: a node, a leaf, or all nodes of a folded call


class Picture:
    """A graph made ready to be written.

    Args:
        roots: the places from which the graph is followed.
        names: what leaves are called, by the identity of the tensor.
        parameters: the identities of the leaves that are parameters.
        calls: whose modules the nodes belong to.
        fold: see ``tinyflow.autograd.draw``.
    """

    def __init__(
        self,
        roots: Sequence[Edge],
        names: Mapping[int, str],
        parameters: frozenset[int],
        calls: ModuleCalls | None,
        fold: int | str | bool,
        show_saved: bool,
        rankdir: str,
    ) -> None:
        self.roots, self.names, self.parameters, self.calls = roots, names, parameters, calls
        self.show_saved, self.rankdir = show_saved, rankdir
        self.nodes = _nodes(roots)
        self.leaves = {id(n.variable): n for n in self.nodes if isinstance(n, AccumulateGrad)}
        self.users: dict[Node, list[Node]] = {}
        for node in self.nodes:
            for edge in node.next_edges:
                if edge is not None:
                    self.users.setdefault(edge.node, []).append(node)
        self.chains = {n: self._chain(n) for n in self.nodes}
        self.fold = self._depth(fold)
        self.units = self._units(self.fold)
        drawn = [n for n in self.nodes if show_saved and self.units[n] is n]
        self.keeps = {n: Keeps(n) for n in drawn}
        self._ids: dict[Any, str] = {}
        self._clusters = itertools.count()

    # ---- what is drawn as one --------------------------------------------------------------------------------------

    def _chain(self, node: Node) -> list[ModuleCall]:
        call = None if self.calls is None else self.calls.of(node)
        return [] if call is None else call.chain

    def _depth(self, fold: int | str | bool) -> int | None:
        """The depth in the tree of calls from which on they are folded; None: nothing is."""
        deepest = max(map(len, self.chains.values()), default=0) - 1
        if fold is False or deepest < 1:
            return None
        if fold == "auto":
            if len(self.nodes) <= READABLE:
                return None
            depths = range(deepest, 0, -1)
            return next((d for d in depths if len(set(self._units(d).values())) <= READABLE), 1)
        return max(1, deepest if fold is True else int(fold))

    def _units(self, depth: int | None) -> dict[Node, Unit]:
        units: dict[Node, Unit] = {}
        for node, chain in self.chains.items():
            folded = None
            if depth is not None and len(chain) > 1:
                folded = chain[depth] if len(chain) > depth else None if chain[-1].children else chain[-1]
            units[node] = node if folded is None else folded
        for variable, leaf in self.leaves.items():
            users = {units[n] for n in self.users.get(leaf, ())}
            if variable in self.parameters and len(users) == 1:
                (user,) = users
                if isinstance(user, ModuleCall):
                    units[leaf] = user
        return units

    # ---- writing ---------------------------------------------------------------------------------------------------

    def source(self) -> str:
        """The DOT text."""
        for node in self.nodes:
            self._id(self.units[node])
        lines = ["digraph tinyflow {", f"  graph [{_GRAPH.format(rankdir=self.rankdir)}]"]
        lines += [f"  node [{_NODE.format(line=_LINE)}]", f"  edge [{_EDGE}]"]
        lines += self._boxes()
        lines += self._edges()
        lines += self._saved()
        lines += self._outputs()
        return "\n".join([*lines, "}", ""])

    def _id(self, key: Any) -> str:
        return self._ids.setdefault(key, f"n{len(self._ids)}")

    def _boxes(self) -> Iterator[str]:
        """The boxes, those of a module's call in a frame."""
        members: dict[ModuleCall | None, list[Unit]] = {}
        for unit in dict.fromkeys(self.units[n] for n in self.nodes):
            members.setdefault(self._home(unit), []).append(unit)
        framed: dict[ModuleCall | None, list[ModuleCall]] = {}
        for home in list(members):
            while home is not None:
                siblings = framed.setdefault(home.parent, [])
                if home in siblings:
                    break
                siblings.append(home)
                home = home.parent
        yield from self._frame(None, members, framed, 1)

    def _frame(
        self,
        call: ModuleCall | None,
        members: dict[ModuleCall | None, list[Unit]],
        framed: dict[ModuleCall | None, list[ModuleCall]],
        depth: int,
    ) -> Iterator[str]:
        indent = "  " * depth
        for unit in members.get(call, ()):
            yield indent + self._box(unit)
        for inner in framed.get(call, ()):
            yield f"{indent}subgraph cluster_{next(self._clusters)} {{"
            label = f"{inner.name} ({inner.kind})" if inner.name else inner.kind
            yield (
                f"{indent}  label={_quoted(label)} labeljust=l style=rounded color={_quoted('#b9c0cc')} "
                f"bgcolor={_quoted(_CLUSTERS[depth % 2])}"
            )
            yield from self._frame(inner, members, framed, depth + 1)
            yield f"{indent}}}"

    def _home(self, unit: Unit) -> ModuleCall | None:
        """The call in whose frame a box stands."""
        if isinstance(unit, ModuleCall):
            return unit.parent
        if isinstance(unit, AccumulateGrad):
            users = self.users.get(unit, ())
            chain = self.chains[users[0]] if len(users) == 1 and id(unit.variable) in self.parameters else []
            return chain[-1] if chain else None
        chain = self.chains[unit]
        return chain[-1] if chain else None

    def _box(self, unit: Unit) -> str:
        if isinstance(unit, ModuleCall):
            return self._written(unit, "module", self._module_label(unit))
        if isinstance(unit, AccumulateGrad):
            variable = unit.variable
            is_parameter = id(variable) in self.parameters
            name = self.names.get(id(variable), "parameter" if is_parameter else "leaf")
            return self._written(unit, "parameter" if is_parameter else "leaf", [name, _described(unit.outputs[0])])
        used = {edge.position for edge in self.roots if edge.node is unit}
        used |= {e.position for n in self.users.get(unit, ()) for e in n.next_edges if e is not None and e.node is unit}
        lines = [operation(unit), *(_described(unit.outputs[k]) for k in sorted(used))]
        own = unit in self.keeps and self.keeps[unit].own
        return self._written(unit, "operation", lines, unit.name(), own)

    def _written(self, key: Any, style: str, lines: Sequence[str], tooltip: str = "", kept: bool = False) -> str:
        fill = f"fillcolor={_quoted(_COLOURS[style])} class={_quoted(style)}"
        if kept:
            fill += f' color="{_KEPT}" penwidth="2"'
        note = f" tooltip={_quoted(tooltip)}" if tooltip else ""
        return f"{self._id(key)} [label={_quoted(*lines)} {fill}{note}]"

    def _module_label(self, call: ModuleCall) -> list[str]:
        lines = [f"{call.name or 'model'} ({call.kind})"]
        if isinstance(call.output, tuple):
            lines.append(_sizes(call.output))
        count = sum(p.numel() for p in call.module.parameters())
        if count:
            lines.append(f"{count:,} parameters")
        if self.show_saved:
            inside = [s for n, u in self.units.items() if u is call for _, s in n.saved_tensors_kept()]
            kept = {id(s._data): s._data for s in inside if not s.is_packed}
            total = sum(data.numel() * data.element_size() for data in kept.values())
            lines += [f"keeps {_bytes(total)}"] if total else []
        return lines

    def _edges(self) -> Iterator[str]:
        """An arrow for each tensor that flows from box to box, orange where its receiver keeps it."""
        drawn: set[tuple[str, str]] = set()
        for node in self.nodes:
            for edge in node.next_edges:
                if edge is None:
                    continue
                source, target = self.units[edge.node], self.units[node]
                ends = self._id(source), self._id(target)
                if source is target or (ends in drawn and isinstance(target, ModuleCall)):
                    continue
                drawn.add(ends)
                attributes = []
                if len(edge.node.outputs) > 1 and not isinstance(source, ModuleCall) and edge.position:
                    attributes.append(f"label={_quoted(f'output {edge.position}')}")
                if node in self.keeps and (edge.node, edge.position) in self.keeps[node].flowing:
                    attributes.append(f'color="{_KEPT}" penwidth="2"')
                yield f"  {ends[0]} -> {ends[1]}" + (f" [{' '.join(attributes)}]" if attributes else "")

    def _saved(self) -> Iterator[str]:
        """A box for each piece of memory that is kept and does not flow, with a line to every operation that keeps it."""
        for node, keeps in self.keeps.items():
            for name, saved in keeps.apart:
                key: Any = saved if saved.is_packed else ("saved", id(saved._data))
                if key not in self._ids:
                    lines = [name, "kept by hooks"] if saved.is_packed else [name, _described(_info(saved))]
                    yield "  " + self._written(key, "saved", lines, "saved for the backward pass")
                yield f'  {self._id(key)} -> {self._id(node)} [style="dashed" color="{_KEPT}" arrowhead="none"]'

    def _outputs(self) -> Iterator[str]:
        for k, edge in enumerate(self.roots):
            info = edge.node.outputs[edge.position]
            name = "output" if len(self.roots) == 1 else f"output {k}"
            yield "  " + self._written(("output", k), "output", [name, _described(info)])
            yield f"  {self._id(self.units[edge.node])} -> {self._id(('output', k))}"


def operation(node: Node) -> str:
    """The operation that a node stands for, as it is called in the forward pass."""
    op = getattr(type(node), "op", None)  # a user's ctx may have an attribute of that name
    if op is not None:
        return str(op.name).strip("_")
    name = node.name()
    if name.endswith("Backward0"):  # of the library's own, such as a view
        return re.sub(r"(?<!^)(?=[A-Z])", "_", name.removesuffix("Backward0")).lower()
    return name.removesuffix("Backward")


def _nodes(roots: Sequence[Edge]) -> list[Node]:
    """Every node that the roots lead to, in the order in which they were recorded, leaves where they are first used."""
    found = {edge.node for edge in roots}
    stack = list(found)
    while stack:
        for edge in stack.pop().next_edges:
            if edge is not None and edge.node not in found:
                found.add(edge.node)
                stack.append(edge.node)
    ordered: dict[Node, None] = {}
    for node in sorted((n for n in found if not isinstance(n, AccumulateGrad)), key=lambda n: n.sequence):
        for edge in node.next_edges:
            if edge is not None and isinstance(edge.node, AccumulateGrad):
                ordered[edge.node] = None
        ordered[node] = None
    ordered.update(dict.fromkeys(edge.node for edge in roots))
    return list(ordered)


class Keeps:
    """What a node keeps: of its own results, of what flows to it by an edge, and apart from these."""

    def __init__(self, node: Node) -> None:
        self.own = False
        self.flowing: set[tuple[Node, int]] = set()
        self.apart: list[tuple[str, SavedTensor]] = []
        for name, saved in node.saved_tensors_kept():
            held = saved.held()
            edge = None if held is None else held._edge()
            if saved.is_packed:
                self.apart.append((name, saved))
            elif saved._output_index is not None:
                self.own = True
            elif edge is not None and edge in node.next_edges:
                self.flowing.add((edge.node, edge.position))
            else:
                self.apart.append((name, saved))


def _info(saved: SavedTensor) -> OutputInfo:
    return OutputInfo(saved._data.shape, saved._data.dtype, saved._data.device)


def _bytes(number: int) -> str:
    """A number of bytes in three digits."""
    value, unit = float(number), "B"
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5 or unit == "GB":
            break
        value /= 1000
    return f"{value:.3g} {unit}"


def _described(info: OutputInfo) -> str:
    return f"{_sizes(info.shape)} {str(info.dtype).removeprefix('torch.')}"


def _sizes(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) if len(shape) else "scalar"


def _quoted(*lines: str) -> str:
    escaped = [line.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for line in lines]
    return '"' + "\\n".join(escaped) + '"'
