"""Faults planted in lm/model.py."""

from tests.mutants.fault import MODEL_TESTS, planted

# fmt: off
FAULTS = [
    *planted(
        "lm/model.py", f"{MODEL_TESTS}::test_an_option_that_the_mixer_lacks_is_refused "
        f"{MODEL_TESTS}::test_options_of_another_mixer_and_unknown_names_are_refused",
        ("config: an option too many is ignored",
         "                raise ValueError(f\"{name} is an option of", "                own = {}; ValueError(f\"{name} is an option of"),
        ("config: options of another mixer", "if type(self.options) is not row.config:", "if not isinstance(self.options, row.config):"),
    ),
    *planted(
        "lm/model.py", f"{MODEL_TESTS}::test_every_option_of_a_mixer_reaches_its_layer",
        ("model: the mixer has an eps of its own", "self.options, eps=self.eps)", "self.options)"),
        ("model: the mixer has options of its own", "module(self.d_model, self.options, eps", "module(self.d_model, MIXERS[self.mixer].options(), eps"),
    ),
    *planted(
        "lm/model.py", f"{MODEL_TESTS}::test_the_model_is_pre_norm_residual_blocks_between_tied_embeddings",
        ("model: no residual around the mixer", "        x = x + y\n        return", "        x = y\n        return"),
        ("model: the mixer's input is not normed", "(self.mixer_norm(x), state)", "(x, state)"),
        ("model: the last norm is missing", "F.linear(self.norm(x), self.embedding", "F.linear(x, self.embedding"),
    ),
    *planted(
        "lm/model.py", f"{MODEL_TESTS}::test_segments_equal_whole",
        ("model: every block starts empty", "x, new = block(x, old, step_)", "x, new = block(x, None if not step_ else old, step_)"),
    ),
]
# fmt: on
