"""Report 3.5: self-attention is weighted message passing on a complete graph, and equivariant until positions are added."""

from __future__ import annotations

from collections.abc import Callable

import networkx as nx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.nn.functional import scaled_dot_product_attention

from tests.conformance.agree import agree, numbers
from tests.controls import graphs as controls
from tests.support.strategies import directed_graphs, features, matrix_of, permutations, seeds, sparse, tangle, widths
from vp.graphs import attention_graph, attention_matrix, mean_aggregate, message_passing, self_attention
from vp.report.writeup.figures import to_svg
from vp.report.writeup.graph_figures import attention_graphs

sizes = st.integers(1, 6)
Attention = Callable[..., Tensor]


@st.composite
def masks(draw: st.DrawFn, all_see: bool = False) -> Tensor:
    """Who may attend to whom; with `all_see`, each word to one at least."""
    mask = matrix_of(draw(directed_graphs(min_nodes=1))).bool()
    return mask | ~mask.any(1, keepdim=True) if all_see else mask


def head(seed: int, d: int, d_k: int = 3, d_v: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """W_q, W_k and W_v of one attention head."""
    return features(seed, d_k, d), features(seed + 1, d_k, d), features(seed + 2, d_v, d)


def block(heads: int = 2) -> ResidualAttentionBlock:
    """A block of open_clip's vision transformer with random weights, biases among them, in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = ResidualAttentionBlock(8, heads).double().eval()
        for parameter in made.parameters():
            nn.init.normal_(parameter, std=0.5)
    return made.requires_grad_(False)


# -- 3.5.a: a transformer as a graph network --------------------------------------------------------------------------------


def attended_to(Q: Tensor, K: Tensor, mask: Tensor) -> Tensor:
    """A[v, u] = softmax over the u that v may attend to of q_v . k_u / sqrt(d_k), number by number."""
    expected = torch.zeros(len(Q), len(Q), dtype=torch.float64)
    for v in range(len(Q)):
        seen = [u for u in range(len(Q)) if mask[v, u]]
        scores = [torch.dot(Q[v], K[u]) / Q.shape[1] ** 0.5 for u in seen]
        total = sum(score.exp() for score in scores)
        for u, score in zip(seen, scores, strict=True):
            expected[v, u] = score.exp() / total
    return expected


def attention_by_node(H: Tensor, weights: tuple[Tensor, ...], mask: Tensor) -> Tensor:
    """h'_v = sum over the u that v may attend to of A[v, u] W_v h_u, node by node."""
    W_q, W_k, W_v = weights
    attention = attended_to(torch.stack([W_q @ h for h in H]), torch.stack([W_k @ h for h in H]), mask)
    expected = torch.zeros(len(H), len(W_v), dtype=torch.float64)
    for v in range(len(H)):
        for u in range(len(H)):
            expected[v] += attention[v, u] * (W_v @ H[u])
    return expected


def everyone(size: int) -> Tensor:
    """The mask that lets every word attend to every word."""
    return torch.ones(size, size, dtype=torch.bool)


@pytest.mark.claim("attention-is-a-graph-network")
@pytest.mark.specifies("self_attention", "attention_matrix", "message_passing")
@given(size=sizes, d=widths, seed=seeds)
def test_self_attention_is_message_passing_on_the_complete_graph(impl, size: int, d: int, seed: int) -> None:
    """Self-attention is message passing on the complete graph: words are nodes, attention weights are the edges' weights."""
    H, (W_q, W_k, W_v) = features(seed, size, d), head(seed, d)
    attention = numbers(impl.attention_matrix(H @ W_q.T, H @ W_k.T, None))
    assert (attention > 0).all(), "without a mask every word attends to every word: expected attention weights above 0"
    by_messages = impl.message_passing(attention, H, lambda v, u: u @ W_v.T, lambda H, received: received, "sum")
    agree(impl.self_attention(H, W_q, W_k, W_v, None), by_messages, "self_attention, and messages W_v h_u by attention expected")


@pytest.mark.specifies("self_attention")
@given(size=sizes, d=widths, seed=seeds)
def test_self_attention_gathers_from_all_words(impl, size: int, d: int, seed: int) -> None:
    """Without a mask a word gathers W_v h_u from all words u, itself included, by the softmax of q_v . k_u / sqrt(d_k)."""
    H, weights = features(seed, size, d), head(seed, d)
    told = "sum over u of softmax_u(W_q h_v . W_k h_u / sqrt(d_k)) W_v h_u, as [v, feature]"
    agree(impl.self_attention(H, *weights, None), attention_by_node(H, weights, everyone(size)), told)


@pytest.mark.specifies("self_attention")
@given(mask=masks(all_see=True), d=widths, seed=seeds)
def test_masked_attention_is_message_passing_on_the_masks_graph(impl, mask: Tensor, d: int, seed: int) -> None:
    """With a mask the graph is the mask's: an edge from v to u where v may attend to u."""
    H, weights = features(seed, len(mask), d), head(seed, d)
    told = "sum over the u with mask[v, u] of softmax_u(W_q h_v . W_k h_u / sqrt(d_k)) W_v h_u, as [v, feature]"
    agree(impl.self_attention(H, *weights, mask), attention_by_node(H, weights, mask), told)


@pytest.mark.specifies("{name}")
@pytest.mark.parametrize("name", ["attention_matrix", "self_attention"])
@given(mask=masks(), seed=seeds)
def test_a_word_that_may_attend_to_nobody_has_zeros(impl, name: str, mask: Tensor, seed: int) -> None:
    """A word whose row of the mask is empty has zeros, not NaN, and the other words are as they would be."""
    H, weights = features(seed, len(mask), 3), head(seed, 3)
    given = (*features(seed, 2, len(mask), 3), mask) if name == "attention_matrix" else (H, *weights, mask)
    found, alone = numbers(getattr(impl, name)(*given)), ~mask.any(1)
    expected = torch.zeros_like(found[alone])
    agree(found[alone], expected, f"{name} at the words {alone.nonzero().flatten().tolist()}, which may attend to nobody")


@pytest.mark.specifies("attention_matrix")
@given(mask=masks(all_see=True), masked=st.booleans(), d=widths, seed=seeds)
def test_the_attention_matrix_is_the_softmax_of_scaled_products(impl, mask: Tensor, masked: bool, d: int, seed: int) -> None:
    """A[v, u] is the softmax of q_v . k_u / sqrt(d) over the u that v may attend to: all of them without a mask."""
    Q, K = features(seed, 2, len(mask), d)
    seen = "mask[v, u]" if masked else "no mask"
    told = f"softmax over u of q_v . k_u / sqrt(d), with {seen}, as [v, u]"
    agree(impl.attention_matrix(Q, K, mask if masked else None), attended_to(Q, K, mask if masked else everyone(len(mask))), told)


@pytest.mark.specifies("attention_matrix")
def test_large_scores_are_no_numbers_too_large(impl) -> None:
    """The softmax of scores whose exponentials no number holds is as exact as that of small ones."""
    Q, K = 800 * torch.eye(3, dtype=torch.float64), torch.tensor([[3.0, 3, 0], [0, 3, 3], [3, 0, 3]], dtype=torch.float64)
    expected = torch.tensor([[1.0, 0, 1], [1, 1, 0], [0, 1, 1]], dtype=torch.float64) / 2
    agree(impl.attention_matrix(Q, K, None), expected, "attention with scores of 1,386 and 0")


@pytest.mark.specifies("{name}")
@pytest.mark.parametrize("name", ["attention_matrix", "self_attention"])
@given(mask=masks(all_see=True), d=widths, seed=seeds)
def test_attention_hands_its_gradients_back(impl, name: str, mask: Tensor, d: int, seed: int) -> None:
    """The gradients of words, and of all that they are multiplied with, are those of the definition, so that it can learn."""
    given_ = [*features(seed, 2, len(mask), d)] if name == "attention_matrix" else [features(seed, len(mask), d), *head(seed, d)]
    if not isinstance(getattr(impl, name)(*given_, mask), Tensor):
        return  # an array of numpy, whose numbers are all that it claims
    inputs = [one.clone().requires_grad_() for one in given_]
    found = getattr(impl, name)(*inputs, mask)
    expected = attended_to(*inputs, mask) if name == "attention_matrix" else attention_by_node(inputs[0], tuple(inputs[1:]), mask)
    if not torch.allclose(numbers(found), expected, rtol=1e-4, atol=1e-5):
        return  # other values have other gradients, and are spoken of elsewhere
    assert getattr(found, "requires_grad", False), "the output has no gradient: it was not computed in torch, from its inputs"
    weights = features(seed, *expected.shape)
    one, right = (
        torch.autograd.grad((weights * numbers(some)).sum(), inputs, allow_unused=True, materialize_grads=True)
        for some in (found, expected)
    )
    names = ("Q", "K") if name == "attention_matrix" else ("H", "W_q", "W_k", "W_v")
    for which, ours, other in zip(names, one, right, strict=True):
        agree(ours, other, f"the gradient of {which}, although the values are right")


@pytest.mark.specifies("attention_matrix")
@given(mask=masks(all_see=True), seed=seeds)
def test_rows_of_the_attention_matrix_sum_to_one(impl, mask: Tensor, seed: int) -> None:
    """Attention weights are not negative and those of a word sum to one: the attention matrix is a mean matrix, D = I."""
    Q, K = features(seed, 2, len(mask), 3)
    attention = numbers(impl.attention_matrix(Q, K, mask))
    assert (attention >= 0).all(), f"an attention weight is {attention.min():.3g}: expected at least 0"
    agree(attention[~mask], torch.zeros_like(attention[~mask]), "attention to words that the mask hides")
    agree(attention.sum(1), torch.ones(len(mask)), "sum of the attention of each word")


@given(mask=masks(), d=widths, seed=seeds)
def test_masks_with_empty_rows(mask: Tensor, d: int, seed: int) -> None:
    """A word that sees nobody leaves all others as they are, in the matrix and in what they gather, which is a mean."""
    H, weights = features(seed, len(mask), d), head(seed, d)
    Q, K = features(seed, 2, len(mask), 3)
    attention = attention_matrix(Q, K, mask)
    torch.testing.assert_close(attention, attended_to(Q, K, mask))
    torch.testing.assert_close(mean_aggregate(attention, K), attention @ K)
    torch.testing.assert_close(self_attention(H, *weights, mask), attention_by_node(H, weights, mask))


@pytest.mark.specifies("self_attention")
@given(mask=masks(all_see=True), d=widths, seed=seeds)
def test_equal_scores_give_the_mean_of_a_graph_convolution(impl, mask: Tensor, d: int, seed: int) -> None:
    """Where all scores are equal, attention is the mean aggregation of a graph convolution."""
    H, (_, _, W_v) = features(seed, len(mask), d), head(seed, d)
    nothing = torch.zeros(1, d, dtype=torch.float64)
    means = torch.stack([torch.stack([W_v @ H[u] for u in range(len(H)) if mask[v, u]]).mean(0) for v in range(len(H))])
    told = "with W_q = W_k = 0, the mean of W_v h_u over the u with mask[v, u], as [v, feature]"
    agree(impl.self_attention(H, nothing, nothing, W_v, mask), means, told)


@given(mask=masks(), d=widths, seed=seeds)
def test_it_is_torchs_scaled_dot_product_attention(mask: Tensor, d: int, seed: int) -> None:
    """Self-attention here is torch's own scaled_dot_product_attention, with and without a mask."""
    mask = mask | torch.eye(len(mask), dtype=torch.bool)  # torch leaves open what a row without any True gives
    H, weights = features(seed, len(mask), d), head(seed, d)
    Q, K, V = (H @ weight.T for weight in weights)
    torch.testing.assert_close(self_attention(H, *weights), scaled_dot_product_attention(Q, K, V))
    torch.testing.assert_close(self_attention(H, *weights, mask), scaled_dot_product_attention(Q, K, V, attn_mask=mask))


def by_heads(module: nn.MultiheadAttention, H: Tensor, mask: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
    """nn.MultiheadAttention as message passing: each head on its own weighted graph, outputs side by side, one last linear map."""
    Q, K, V = (H @ module.in_proj_weight.T + module.in_proj_bias).chunk(3, dim=1)
    heads = [part.chunk(module.num_heads, dim=1) for part in (Q, K, V)]
    graphs, outputs = [], []
    for q, k, v in zip(*heads, strict=True):
        graphs.append(attention_matrix(q, k, mask))
        outputs.append(message_passing(graphs[-1], v, lambda receiver, sender: sender, lambda _, received: received, "sum"))
    return module.out_proj(torch.cat(outputs, dim=1)), graphs


@given(size=sizes, heads=st.sampled_from([1, 2, 4]), seed=seeds)
def test_many_heads_are_as_many_weighted_graphs(size: int, heads: int, seed: int) -> None:
    """Several heads are as many graphs on the same words: side by side they give torch's MultiheadAttention and its weights."""
    module, H = block(heads).attn, features(seed, size, 8)
    expected, weights = module(H, H, H, average_attn_weights=False)
    output, graphs = by_heads(module, H)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(torch.stack(graphs), weights)


@given(size=sizes, seed=seeds)
def test_causal_attention_is_a_graph_that_points_backwards(size: int, seed: int) -> None:
    """A decoder's causal mask is the graph in which every word points at itself and all words before it."""
    mask = torch.ones(size, size, dtype=torch.bool).tril()
    module, H = block().attn, features(seed, size, 8)
    expected, _ = module(H, H, H, attn_mask=~mask)
    torch.testing.assert_close(by_heads(module, H, mask)[0], expected)
    ordered = attention_graph(attention_matrix(H, H, mask))
    assert nx.is_directed_acyclic_graph(nx.DiGraph([(v, u) for v, u in ordered.edges if u != v]))


@pytest.mark.claim("a-transformer-block-is-a-graph-network")
@given(size=sizes, seed=seeds)
def test_a_block_of_open_clips_vision_transformer_is_a_graph_network(size: int, seed: int) -> None:
    """A block of open_clip's vision transformer is such message passing, a graph per head, then a network at each token alone."""
    module, H = block(), features(seed, size, 8)
    gathered = H + by_heads(module.attn, module.ln_1(H))[0]
    by_token = torch.stack([h + module.mlp(module.ln_2(h)) for h in gathered])
    torch.testing.assert_close(module(H[None])[0], by_token)


@given(mask=masks(), seed=seeds)
def test_the_attention_graph_has_the_attention_matrix_as_its_adjacency(mask: Tensor, seed: int) -> None:
    """The drawn graph has an edge from v to u, weighted, where v attends to u: its adjacency matrix is the attention matrix."""
    attention = attention_matrix(*features(seed, 2, len(mask), 3), mask)
    words = [f"word {i}" for i in range(len(mask))]
    graph = attention_graph(attention, words)
    assert list(graph) == words
    assert graph.number_of_edges() == int((attention > 0).sum())
    assert nx.to_numpy_array(graph).tolist() == attention.tolist()


def test_attention_that_learns_can_be_drawn() -> None:
    """An attention matrix with a gradient is drawn without a warning, and in compressed sparse rows, too."""
    attention = attention_matrix(*features(0, 2, 3, 2).requires_grad_())
    graph = attention_graph(attention)
    assert nx.to_numpy_array(graph).tolist() == attention.tolist()
    assert nx.utils.graphs_equal(attention_graph(sparse(attention.detach())), graph)


def test_gradients_of_masked_attention_are_finite_and_right() -> None:
    """Gradients agree with finite differences, also where a word may attend to nobody."""
    mask = matrix_of(tangle()).bool()
    assert gradcheck(lambda H: self_attention(H, *head(1, 3), mask), features(0, 5, 3).requires_grad_())


# -- 3.5.b: order ----------------------------------------------------------------------------------------------------------


def assert_equivariant(layer: Callable[[Tensor], Tensor], H: Tensor, order: list[int]) -> None:
    """f(P H) = P f(H)."""
    agree(layer(H[order]), numbers(layer(H))[order], f"words in the order {order}: f(P H), P f(H) expected, as [v, feature]")


@pytest.mark.claim("attention-is-equivariant")
@pytest.mark.specifies("self_attention")
@given(size=sizes, d=widths, seed=seeds, data=st.data())
def test_self_attention_is_equivariant(impl, size: int, d: int, seed: int, data: st.DataObject) -> None:
    """Self-attention is permutation EQUIVARIANT: reordered words give the same outputs, reordered."""
    weights = head(seed, d)
    assert_equivariant(lambda H: impl.self_attention(H, *weights, None), features(seed, size, d), data.draw(permutations(size)))


@pytest.mark.claim("only-pooled-outputs-are-invariant")
@given(size=sizes, seed=seeds, data=st.data())
def test_a_block_is_equivariant_and_only_its_pooled_output_invariant(size: int, seed: int, data: st.DataObject) -> None:
    """A block of open_clip's vision transformer is equivariant, too; only outputs pooled over the tokens are invariant."""
    module, H, order = block(), features(seed, size, 8), data.draw(permutations(size))
    assert_equivariant(lambda tokens: module(tokens[None])[0], H, order)
    torch.testing.assert_close(module(H[order][None]).mean(1), module(H[None]).mean(1))


@pytest.mark.claim("only-pooled-outputs-are-invariant")
@given(seed=seeds)
def test_self_attention_is_not_invariant(seed: int) -> None:
    """Without pooling, the outputs of reordered words are not the same outputs in the same places."""
    H, weights = features(seed, 3, 2), head(seed, 2)
    assert not torch.allclose(self_attention(H[[1, 2, 0]], *weights), self_attention(H, *weights))


@pytest.mark.claim("positions-make-order-matter")
@given(seed=seeds)
def test_positions_make_order_matter(seed: int) -> None:
    """Position embeddings, added to the words, break equivariance and the invariance of pooled outputs: order matters."""
    H, positions, weights = *features(seed, 2, 4, 3), head(seed, 3)
    order = [2, 0, 3, 1]
    moved, kept = self_attention(H[order] + positions, *weights), self_attention(H + positions, *weights)
    assert not torch.allclose(moved, kept[order])
    assert not torch.allclose(moved.mean(0), kept.mean(0))


@pytest.mark.claim("order-through-positions-alone")
@given(seed=seeds, order=permutations(4).filter(lambda order: order != [0, 1, 2, 3]))
def test_open_clips_vision_transformer_sees_order_through_positions_alone(seed: int, order: list[int]) -> None:
    """A whole vision transformer of open_clip tells an image from its shuffled patches, and not without position embeddings."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = VisionTransformer(image_size=8, patch_size=4, width=8, layers=2, heads=2, mlp_ratio=2, output_dim=4).double()
        nn.init.normal_(model.positional_embedding)
    patches = features(seed, 4, 3, 4, 4)
    image, shuffled = (torch.cat([torch.cat([*p[:2]], 2), torch.cat([*p[2:]], 2)], 1)[None] for p in (patches, patches[order]))
    with torch.no_grad():
        assert not torch.allclose(model(image), model(shuffled), rtol=1e-6)
        model.positional_embedding.zero_()
        torch.testing.assert_close(model(image), model(shuffled))


# -- what is refused, controls and the figure -------------------------------------------------------------------------------


def test_shapes_that_do_not_fit_are_refused() -> None:
    """Attention names the shapes given and expected."""
    Q = torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"Q is \(3, 2\) and K \(4, 2\): expected both \(N, d\)"):
        attention_matrix(Q, torch.zeros(4, 2))
    with pytest.raises(ValueError, match=r"mask is \(2, 3\) of torch.bool: expected \(3, 3\) of booleans"):
        attention_matrix(Q, Q, torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"mask is \(3, 3\) of torch.float32"):
        attention_matrix(Q, Q, torch.ones(3, 3))
    with pytest.raises(TypeError, match="K is a ndarray: expected a tensor"):
        attention_matrix(Q, Q.numpy())
    with pytest.raises(TypeError, match="H is a ndarray: expected a tensor"):
        self_attention(Q.numpy(), *torch.zeros(3, 2, 2))
    for wrong, name in enumerate(("W_q", "W_k", "W_v")):
        weights = [torch.zeros(2, 5 if place == wrong else 2) for place in range(3)]
        with pytest.raises(ValueError, match=rf"^{name} is \(2, 5\) and H \(3, 2\): expected \(d_out, d\) and \(N, d\)$"):
            self_attention(Q, *weights)
    with pytest.raises(ValueError, match=r"^W_q is \(2, 2\) and H \(1, 2, 3\): expected"):
        self_attention(torch.zeros(1, 2, 3), *torch.zeros(3, 2, 2))
    with pytest.raises(ValueError, match=r"^W_q is \(1, 2, 2\) and H \(3, 2\): expected"):
        self_attention(Q, *torch.zeros(3, 1, 2, 2))


def test_a_rounded_attention_matrix_is_drawn() -> None:
    """Rows sum to one but for rounding."""
    assert attention_graph(torch.tensor([[1.00005]])).number_of_edges() == 1


def test_what_is_no_attention_matrix_is_not_drawn() -> None:
    """A matrix that is not square, whose rows do not sum to one, or with names that do not fit is refused."""
    with pytest.raises(ValueError, match=r"A is \(2, 3\): expected \(N, N\)"):
        attention_graph(torch.full((2, 3), 1 / 3))
    with pytest.raises(ValueError, match="rows of A sum to 1 to 2: rows of an attention matrix sum to one, or are zero"):
        attention_graph(torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
    for names in (["a"], ["a", "a"]):
        with pytest.raises(ValueError, match="expected 2 different names"):
            attention_graph(torch.eye(2), names)


def test_attention_with_positions_is_rejected_as_equivariant() -> None:
    """Attention with position embeddings inside fails equivariance."""
    with pytest.raises(AssertionError):
        assert_equivariant(controls.attention_with_positions, features(0, 4, 3), [2, 0, 3, 1])


def test_attention_is_drawn_as_a_graph(record: Callable[..., None]) -> None:
    """The writeup shows an attention matrix as a graph, without and with a causal mask."""
    words = ["the", "cat", "sat", "down", "again"]
    Q, K = features(4, 2, 5, 3)
    causal = torch.ones(5, 5, dtype=torch.bool).tril()
    graphs = {
        "every word attends to every word": attention_graph(attention_matrix(Q, K), words),
        "causal mask: to itself and to words before it": attention_graph(attention_matrix(Q, K, causal), words),
    }
    caption = (
        "Row v of the matrix holds how much word v attends to each word; an arrow from v to u is as wide as that weight. Queries "
        "and keys are random. On the left the graph is complete; the causal mask on the right takes away the arrows to later words."
    )
    record("figure", id="attention-as-a-graph", caption=caption, svg=to_svg(attention_graphs(graphs), "attention-as-a-graph"))
