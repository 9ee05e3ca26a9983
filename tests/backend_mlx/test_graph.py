"""Graphs that are traced: what is in them is what MLX does."""

from __future__ import annotations

import threading

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from ipa_mlx.device import Device, device, writing_for
from ipa_mlx.graph.nodes import Graph
from ipa_mlx.graph.tracing import hollow, like, trace
from ipa_mlx.networks.layers import Convolution, FeedForward, silu
from ipa_mlx.networks.norms import GroupNorm


def names(graph: Graph) -> list[str]:
    return [node.name for node in graph.nodes]


def test_a_graph_has_shapes_and_precisions() -> None:
    graph = trace(
        lambda x, y: (x @ y).astype(mx.float16), like((2, 3), mx.float32), mx.ones((3, 4))
    )
    assert names(graph) == ["Matmul", "AsType"]
    product, cast = graph.nodes
    assert [(t.shape, t.dtype) for t in product.inputs] == [
        ((2, 3), mx.float32),
        ((3, 4), mx.float32),
    ]
    assert cast.outputs == graph.outputs
    assert (cast.outputs[0].nbytes, product.outputs[0].nbytes) == (16, 32)
    assert product.inputs == graph.inputs


def test_every_node_comes_after_what_it_needs() -> None:
    graph = _block(Device.METAL)
    known = {t.name for t in (*graph.inputs, *graph.weights.values(), *graph.constants)}
    for node in graph.nodes:
        assert {t.name for t in node.inputs} <= known, node
        known |= {t.name for t in node.outputs}
    assert {t.name for t in graph.outputs} <= known


def _block(on: Device) -> Graph:
    block = FeedForward(8)
    hollow(block, mx.float16)
    norm = nn.LayerNorm(8)
    return trace(lambda x: x + block(norm(x)), like((1, 5, 8), mx.float16), on=on, module=block)


def test_kernels_are_one_node_on_a_gpu_and_fall_apart_on_a_cpu() -> None:
    gpu, cpu = names(_block(Device.METAL)), names(_block(Device.CPU))
    assert gpu.count("layer_norm") == 1 and "Erf" not in gpu and "Sqrt" not in gpu
    assert gpu.count("Compiled") == 1
    assert "layer_norm" not in cpu and "Compiled" not in cpu and "Sqrt" in cpu


def test_attention_is_one_node_with_its_scale() -> None:
    q = like((1, 2, 16, 64), mx.float16)
    k = like((1, 2, 7, 64), mx.float16)
    graph = trace(
        lambda q, k: mx.fast.scaled_dot_product_attention(q, k, k, scale=0.5, mask=None), q, k
    )
    (node,) = graph.nodes
    assert node.name == "scaled_dot_product_attention"
    assert dict(node.arguments) == {"scale": 0.5, "mask": None}
    assert [t.shape for t in (*node.inputs, *node.outputs)] == [
        (1, 2, 16, 64),
        (1, 2, 7, 64),
        (1, 2, 7, 64),
        (1, 2, 16, 64),
    ]


def test_mlx_s_compiled_activations_are_one_node() -> None:
    graph = trace(lambda x: nn.silu(x) + nn.gelu(x), like((4,), mx.float16))
    assert sorted(names(graph)) == ["Add", "Compiled", "Compiled"]


def test_weights_are_inputs_and_take_no_memory() -> None:
    layer = Convolution(512, 512)
    hollow(layer, mx.float16)
    before = mx.get_active_memory()
    graph = trace(layer, like((1, 64, 64, 512), mx.float16), module=layer)
    assert {name: t.shape for name, t in graph.weights.items()} == {
        "weight": (512, 3, 3, 512),
        "bias": (512,),
    }
    assert names(graph).count("Convolution") == 1 and "RandomBits" not in names(graph)
    assert mx.get_active_memory() - before < 1 << 16
    assert layer.weight.dtype == mx.float16  # no array of the trace is left in it


def test_quantised_weights_stay_packed() -> None:
    layer = nn.QuantizedLinear(64, 64)
    hollow(layer, mx.bfloat16)
    graph = trace(layer, like((1, 64), mx.bfloat16), module=layer)
    assert (graph.weights["weight"].dtype, graph.weights["scales"].dtype) == (
        mx.uint32,
        mx.bfloat16,
    )
    assert "QuantizedMatmul" in names(graph)


def test_strips_of_a_cpu_are_traced_without_being_evaluated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ipa_mlx.networks.layers._MOST_NEIGHBOURS", 0)
    monkeypatch.setattr("ipa_mlx.networks.layers._STRIP_NEIGHBOURS", 2 * 9 * 8 * 4)
    monkeypatch.setattr("ipa_mlx.networks.norms._MOST_NORMED", 0)
    norm, layer = GroupNorm(2, 4, 1e-5), Convolution(4, 4)
    x = like((1, 8, 8, 4), mx.float32)
    cpu = trace(lambda x: layer(silu(norm(x))), x, on=Device.CPU, module=layer)
    gpu = trace(lambda x: layer(silu(norm(x))), x, on=Device.METAL, module=layer)
    assert names(cpu).count("Convolution") == 4 and names(gpu).count("Convolution") == 1


def test_a_trace_changes_nothing_for_other_threads() -> None:
    """Another thread runs a network while this one traces."""
    x = mx.array(np.linspace(-1, 1, 8, dtype=np.float32)[None])
    expected, found = np.array(mx.fast.layer_norm(x, None, None, 1e-5)), []

    def other() -> None:
        found.append((device(), np.array(mx.fast.layer_norm(x, None, None, 1e-5))))

    def traced(y: mx.array) -> mx.array:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return mx.fast.layer_norm(y, None, None, 1e-5)

    here = device()
    trace(traced, like((1, 8), mx.float32), on=Device.CUDA)
    ((there, result),) = found
    assert there is here and np.array_equal(result, expected)
    assert np.array_equal(np.array(mx.fast.layer_norm(x, None, None, 1e-5)), expected)


def test_the_device_that_is_written_for() -> None:
    with writing_for(Device.METAL):
        assert device() is Device.METAL
        with writing_for(Device.CPU):
            assert not device().is_gpu
        assert device() is Device.METAL
