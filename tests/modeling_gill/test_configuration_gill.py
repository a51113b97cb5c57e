"""What `GillConfig` derives, keeps and refuses."""

import pytest
from transformers import AutoConfig, OPTConfig

from modeling_gill import GillConfig


def test_sizes_that_a_backbone_determines_are_read_from_it():
    config = GillConfig(
        text_config=OPTConfig(hidden_size=48, word_embed_proj_dim=32, num_attention_heads=4, vocab_size=90),
        vision_config={"model_type": "clip_vision_model", "hidden_size": 20, "num_attention_heads": 4},
    )
    assert (config.embedding_dim, config.vision_dim, config.num_language_model_rows) == (32, 20, 90)
    assert (config.image_token_id, config.image_output_token_ids, config.vocab_size) == (90, list(range(91, 99)), 99)
    assert config.text_config.vocab_size == 90 and config.get_text_config().vocab_size == 99


def test_a_saved_configuration_comes_back_the_same(tmp_path):
    config = GillConfig(language_model_id="a/b", vision_model_id="c/d", mapper_type="mlp", num_visual_tokens=2)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, GillConfig)
    # `save_pretrained` notes its version.
    version = {"transformers_version": None}
    assert {**loaded.to_diff_dict(), **version} == {**config.to_diff_dict(), **version}


def test_fields_of_dreamllm_are_kept_and_are_not_written_for_gill():
    gill = GillConfig()
    written = gill.to_dict()
    assert not [name for name in written if "start_token" in name or "added" in name or "visual_projection" in name]
    assert gill.opening_token_id == gill.image_output_run_ids[0] == gill.image_output_token_ids[0]
    fields = {
        "image_start_token_id": 11,
        "image_end_token_id": 12,
        "image_output_start_token_id": 13,
        "image_output_end_token_id": 14,
        "predict_image_output_tokens": False,
        "image_output_token_ids": [50280, 50281],
        "added_token_ids": [50275, 50276],
        "visual_projection_depth": 2,
        "visual_projection_norm": True,
        "retrieval_dim": None,
        "mapper_type": "projection",
    }
    config = GillConfig.from_dict(GillConfig(**fields).to_dict())
    assert {name: getattr(config, name) for name in fields} == fields
    assert config.image_output_run_ids == [13, 50280, 50281, 14] and config.opening_token_id == 13
    assert config.image_input_run_ids == [11, *[config.image_token_id] * 4, 12]
    assert (config.conditioning_length, config.use_decision_head, config.vocab_size) == (2, False, 50282)


def test_a_mapper_without_queries_has_enough_tokens_for_the_conditioning():
    assert GillConfig(mapper_type="linear").mapper_tokens_per_img_token == 10


@pytest.mark.parametrize(
    ("fields", "message"),
    (
        ({"mapper_type": "magic"}, "`mapper_type` must be one of .*'magic'"),
        ({"num_visual_tokens": 0}, "`num_visual_tokens` must be a positive integer, got 0"),
        ({"retrieval_dim": 2.5}, "`retrieval_dim` must be a positive integer, got 2.5"),
        ({"image_output_token_ids": []}, "`image_output_token_ids` must be one or more different ids"),
        ({"image_output_token_ids": [5, 5]}, "`image_output_token_ids` must be one or more different ids"),
        ({"image_output_token_ids": [5], "vocab_size": 4, "image_token_id": 1}, "outside of the 4 ids"),
        ({"image_output_token_ids": [5, 6], "image_token_id": 5}, "is also one of"),
        ({"mapper_hidden_size": 10, "mapper_num_heads": 4}, "no multiple of"),
        ({"img_logit_scaling": "loud"}, "`img_logit_scaling` must be one of"),
        ({"decision_dropout": 1.5}, "`decision_dropout` must lie in"),
        ({"language_model_id": "a/b"}, "`language_model_id` is 'a/b', `vision_model_id` is None"),
        ({"image_start_token_id": 5}, "`image_start_token_id` is 5, `image_end_token_id` is None; expected both"),
        ({"image_output_end_token_id": 5}, "`image_output_start_token_id` is None, `image_output_end_token_id` is 5"),
        ({"predict_image_output_tokens": False}, "nothing could open an image"),
        ({"image_output_start_token_id": 60000, "vocab_size": 70000}, "has 50272 rows; expected the id of one"),
        ({"image_output_start_token_id": 50275}, "is also one of `image_output_token_ids`"),
        ({"image_start_token_id": 5, "image_end_token_id": 5}, "`image_start_token_id` 5 is also `image_end_token_id`"),
        ({"added_token_ids": [50274]}, "have ids in common"),
        ({"added_token_ids": []}, "`added_token_ids` must be one or more different ids"),
        ({"retrieval_dim": None, "use_decision_head": True}, "`retrieval_dim` is None and `use_decision_head` is True"),
        ({"retrieval_dim": None, "mapper_type": None}, "`retrieval_dim` is None and `mapper_type` is None"),
        ({"mapper_type": "projection", "conditioning_length": 77}, "has a length of 77; expected equal numbers"),
        ({"visual_projection_norm": "no"}, "`visual_projection_norm` must be true or false, got 'no'"),
        ({"visual_projection_depth": 0}, "`visual_projection_depth` must be a positive integer, got 0"),
        ({"language_model_lora": "lora"}, "`language_model_lora` is 'lora', but `language_model_id` is None"),
        ({"text_config": {"model_type": "no such"}}, "`text_config` has model_type 'no such'"),
        ({"vision_config": 3}, "`vision_config` must be a configuration"),
    ),
)
def test_a_configuration_that_cannot_be_is_refused_naming_the_field(fields, message):
    with pytest.raises(ValueError, match=message):
        GillConfig(**fields)
