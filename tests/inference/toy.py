"""A tiny recurrent language model whose next token depends on everything before it, in JAX and in NumPy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from mlm_jax.inference import search


class Toy:
    def __init__(self, seed, vocabulary=4, width=5, sharpness=2.0):
        rng = np.random.default_rng(seed)

        def draw(*shape):
            return rng.normal(size=shape).astype(np.float32)

        self.vocabulary, self.width = vocabulary, width
        self.mix, self.embed = draw(width, width), draw(vocabulary, width)
        self.out = sharpness * draw(width, vocabulary)
        self.begin = draw(8, width)  # one beginning for each of up to 8 rows

    def run(self, kind, rows, starts, **options):
        """Search by ``beam_search``, ``greedy`` or ``sample`` of the search room, from the given rows' beginnings."""
        weights = (self.mix, self.embed, self.out)
        return _run(
            kind,
            weights,
            jnp.asarray(rows),
            jnp.asarray(starts),
            options.pop("keys", None),
            options.pop("forbidden", None),
            tuple(options.items()),
        )

    def log_probabilities(self, row, start, text):
        """log P of each token of a text, one at a time."""
        state, last, found = self.begin[row].astype(np.float64), start, []
        for position, token in enumerate(text):
            state = np.tanh(state @ self.mix + self.embed[last] + 0.1 * position)
            logits = state @ self.out
            found.append((logits - np.log(np.exp(logits).sum()))[token])
            last = token
        return np.array(found)

    def texts(self, length, stop, forbidden=()):
        """Every text that ends with its first stop token or has ``length`` tokens."""
        allowed = [token for token in range(self.vocabulary) if token not in forbidden]
        for size in range(1, length + 1):
            for text in itertools.product(allowed, repeat=size):
                inside, last = text[:-1], text[-1]
                if not set(inside) & set(stop) and (last in stop or size == length):
                    yield text

    def ranked(self, row, start, length, stop, length_penalty):
        """Every text with its score, the best first."""
        scored = [
            (self.log_probabilities(row, start, text).sum() / len(text) ** length_penalty, text)
            for text in self.texts(length, stop)
        ]
        return sorted(scored, reverse=True)


def texts_of(hypotheses, row):
    """The hypotheses of a row as tuples of tokens."""
    found = zip(np.asarray(hypotheses.tokens[row]), np.asarray(hypotheses.lengths[row]))
    return [tuple(int(token) for token in tokens[:size]) for tokens, size in found]


@functools.partial(jax.jit, static_argnums=(0, 6))  # compiled once for all weights
def _run(kind, weights, begin, starts, keys, forbidden, options):
    mix, embed, out = weights

    def step(cache, tokens, position):
        state = jnp.tanh(cache @ mix + embed[tokens] + 0.1 * position)
        return state @ out, state

    options = dict(options, forbidden=forbidden)
    if kind == "beam_search":
        return search.beam_search(step, search.repeat_rows(begin, options["beams"]), starts, **options)
    if kind == "sample":
        return search.sample(step, begin, starts, keys, **options)
    return search.greedy(step, begin, starts, **options)
