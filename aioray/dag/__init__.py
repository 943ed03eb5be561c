"""Graphs of calls, written down first and run as often as needed: `f.bind(x)` instead of `f.remote(x)`."""

from __future__ import annotations

from aioray.dag.compiled import CompiledDAG, CompiledDAGRef
from aioray.dag.context import DAGContext
from aioray.dag.input import InputAttributeNode, InputNode
from aioray.dag.nodes import ClassMethodNode, ClassNode, DAGNode, FunctionNode, MultiOutputNode

__all__ = [
    "ClassMethodNode",
    "ClassNode",
    "CompiledDAG",
    "CompiledDAGRef",
    "DAGContext",
    "DAGNode",
    "FunctionNode",
    "InputAttributeNode",
    "InputNode",
    "MultiOutputNode",
]
