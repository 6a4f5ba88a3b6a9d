"""What names the features of an encoder: weights, constants, settings and what its transform does."""

import torch

from vlm_train.feature_cache.fingerprint import encoder_fingerprint


def test_all_that_makes_features_is_in_their_name(tiny_spec):
    from vlm_encoders.configs import TimmConfig

    config = TimmConfig.model_validate(tiny_spec["encoder"])

    def name(seed=0, facts=None, **changes):
        torch.manual_seed(seed)
        made = config.model_copy(update=changes)
        return encoder_fingerprint(made.build(), facts or {"dtype": "float32"})

    names = [
        name(),
        name(seed=1),
        name(layer=1),
        name(resize_mode="pad"),
        name(resize_mode="crop"),
        name(interpolation="lanczos"),
        name(image_size=48),
        name(facts={"dtype": "bfloat16"}),
    ]
    assert name() == names[0]
    assert len(set(names)) == len(names)


def test_transform_and_constants_count_by_what_they_do(tiny_model):
    """A third party's encoder may have settings that no config tells."""
    encoder, names = tiny_model.encoder, []
    names.append(encoder_fingerprint(encoder, {}))
    transform = encoder.transform
    encoder.transform = lambda image: transform(image.convert("L"))
    names.append(encoder_fingerprint(encoder, {}))
    del encoder.transform
    encoder.mean = encoder.mean + 0.01
    names.append(encoder_fingerprint(encoder, {}))
    assert len(set(names)) == 3
