"""A stock decoder writes with its own cache: the log probabilities are those of its forward."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from integration_tests import running, stock_model
from melodi_plugin.serving.sampling_settings import SamplingSettings

VOCABULARY = 20  # so few that the list of the most probable tokens has them all


def test_text_of_a_stock_decoder_is_that_of_its_forward_pass(tmp_path):
  with running.maxtext_process():
    from melodi_plugin.maxtext.loading import write_params
    from melodi_plugin.serving.stock import StockEngine

    own = dict(vocab_size=VOCABULARY, base_output_directory=str(tmp_path), run_name="stock")
    config = stock_model.new_config("llama2", melodi=False, **own)
    model = stock_model.build(config)
    stock_model.randomize(model)
    path = write_params(config, "saved", nnx.state(model, nnx.Param))
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (1, 16))
    tokens, places = jnp.asarray(ids, jnp.int32), jnp.arange(16)[None]
    logits, _ = stock_model.reader(model)(nnx.state(model), tokens, places, jnp.ones_like(tokens))
    expected = np.asarray(jax.nn.log_softmax(logits.astype(jnp.float32)))[0]

    engine = StockEngine(config, path, room=16)
    for _ in range(2):  # a second text forgets the first
      engine.begin(0)
      engine.sample_with(0, SamplingSettings(temperature=0))
      engine.read_all({0: np.int32(ids[0, :5])})
      for at in range(5, 9):
        drawn = engine.generate({0: int(ids[0, at])})[0]
        assert drawn.token == expected[at].argmax()
        found = dict(zip(drawn.top_ids.tolist(), drawn.top_logprobs.tolist(), strict=True))
        np.testing.assert_allclose([found[i] for i in range(VOCABULARY)], expected[at], atol=1e-4)
      engine.read_all({0: np.int32(ids[0, 9:12])})  # what a person says next
      drawn = engine.generate({0: int(ids[0, 12])})[0]
      assert abs(drawn.logprob - expected[12].max()) < 1e-4
    assert engine.row_bytes > 0
