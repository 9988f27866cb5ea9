"""Which tests of this repository catch each bug when it is planted, and one that does not notice. Proved in tests/test_museum.py.

They are not all the tests that turn red (often dozens do), but some that say by their name what they saw. A test that stays green
is no worse than they are: it shows why the bug could live.
"""

#: (number, form) -> (tests that turn red, a test that stays green)
PROOF: dict[tuple[int, str], tuple[tuple[str, ...], str]] = {
    (1, ""): (
        ("test_cache.py::test_every_way_to_feed_every_cache_gives_the_judges_logits[3]",
         "test_generation.py::test_prefill_gives_each_rows_logits_after_its_last_token[None]"),
        "test_model.py::test_logits_equal_the_loops[5-{}]",
    ),
    (2, ""): (
        ("test_cache.py::test_a_chunk_keeps_the_keys_its_own_last_tokens_overwrite[3]",
         "test_cache.py::test_each_query_sees_exactly_its_window_for_every_way_to_chunk[3-W]"),
        "test_cache.py::test_slots_hold_what_writing_one_by_one_leaves_for_every_way_to_chunk[4]",
    ),
    (3, "holes"): (
        ("test_cache.py::test_a_chunk_keeps_the_keys_its_own_last_tokens_overwrite[3]",
         "test_cache.py::test_each_query_sees_exactly_its_window_for_every_way_to_chunk[3-W]"),
        "test_cache.py::test_slots_hold_what_writing_one_by_one_leaves_for_every_way_to_chunk[4]",
    ),
    (3, "future"): (
        ("test_cache.py::test_a_chunk_keeps_the_keys_its_own_last_tokens_overwrite[3]",
         "test_cache.py::test_each_query_sees_exactly_its_window_for_every_way_to_chunk[3-W]"),
        "test_cache.py::test_slots_hold_what_writing_one_by_one_leaves_for_every_way_to_chunk[4]",
    ),
    (4, ""): (
        ("test_cache.py::test_slots_hold_what_writing_one_by_one_leaves_for_every_way_to_chunk[3]",
         "test_cache.py::test_every_way_to_feed_every_cache_gives_the_judges_logits[3]"),
        "test_cache.py::test_without_a_window_each_query_sees_all_before_it",
    ),
    (5, ""): (
        ("test_cache.py::test_each_query_sees_exactly_its_window_for_every_way_to_chunk[3-W]",
         "test_generation.py::test_prefill_gives_each_rows_logits_after_its_last_token[1]"),
        "test_cache.py::test_a_chunk_keeps_the_keys_its_own_last_tokens_overwrite[3]",
    ),
    (6, ""): (
        ("test_model.py::test_logits_equal_the_loops[2-{}]",
         "test_model.py::test_information_travels_exactly_layers_times_window_minus_one[2-3]"),
        "test_cache.py::test_each_query_sees_exactly_its_window_for_every_way_to_chunk[3-W]",
    ),
    (7, ""): (
        ("test_model.py::test_logits_equal_the_loops[2-{}]",
         "test_model.py::test_information_travels_exactly_layers_times_window_minus_one[2-3]"),
        "test_model.py::test_logits_equal_the_loops[None-{}]",
    ),
    (8, ""): (
        ("test_cache.py::test_each_query_sees_exactly_its_window_for_every_way_to_chunk[3-None]",
         "test_cache.py::test_every_way_to_feed_every_cache_gives_the_judges_logits[3]"),
        "test_cache.py::test_each_query_sees_exactly_its_window_for_every_way_to_chunk[3-W]",
    ),
    (9, ""): (
        ("test_cache.py::test_the_ring_never_grows_and_the_growing_cache_keeps_everything",
         "test_cache.py::test_bytes_of_the_7b"),
        "test_cache.py::test_every_way_to_feed_every_cache_gives_the_judges_logits[3]",
    ),
    (10, ""): (
        ("test_masks.py::test_a_window_of_three_shows_three_keys_the_token_itself_among_them",
         "test_cache.py::test_every_way_to_feed_every_cache_gives_the_judges_logits[3]"),
        "test_cache.py::test_slots_hold_what_writing_one_by_one_leaves_for_every_way_to_chunk[3]",
    ),
    (11, ""): (
        ("test_cache.py::test_every_way_to_feed_every_cache_gives_the_judges_logits[1]",),
        "test_cache.py::test_every_way_to_feed_every_cache_gives_the_judges_logits[2]",
    ),
    (12, "itself"): (
        ("test_cache.py::test_each_query_sees_exactly_its_window_for_every_way_to_chunk[3-W]",
         "test_cache.py::test_every_way_to_feed_every_cache_gives_the_judges_logits[3]"),
        "test_cache.py::test_slots_hold_what_writing_one_by_one_leaves_for_every_way_to_chunk[3]",
    ),
    (12, "closure"): (
        ("test_cache.py::test_every_way_to_feed_every_cache_gives_the_judges_logits[3]",
         "test_generation.py::test_prefill_gives_each_rows_logits_after_its_last_token[1]"),
        "test_cache.py::test_each_query_sees_exactly_its_window_for_every_way_to_chunk[3-W]",
    ),
    (13, "unpermuted"): (
        ("test_checkpoint.py::test_rows_are_permuted_head_by_head",
         "test_checkpoint.py::test_logits_equal_transformers[heads=6/2-W=5]"),
        "test_checkpoint.py::test_saving_and_loading_changes_nothing[dtype0]",
    ),
    (13, "heads"): (
        ("test_checkpoint.py::test_logits_equal_transformers[heads=4/1-W=5]",
         "test_checkpoint.py::test_greedy_ids_equal_transformers_recomputed_without_a_cache[heads=4/1-W=5]"),
        "test_checkpoint.py::test_logits_equal_transformers[heads=3/3-W=5]",
    ),
    (14, ""): (
        ("test_model.py::test_logits_equal_the_loops[None-{}]",
         "test_checkpoint.py::test_logits_equal_transformers[heads=6/2-W=5]"),
        "test_model.py::test_logits_equal_the_loops[None-{'n_heads': 4, 'n_kv_heads': 1}]",
    ),
    (15, "future"): (
        ("test_model.py::test_the_last_token_changes_no_earlier_logit[None]",
         "test_model.py::test_logits_equal_the_loops[None-{}]"),
        "test_cache.py::test_each_query_sees_exactly_its_window_for_every_way_to_chunk[3-W]",
    ),
    (15, "rows"): (
        ("test_model.py::test_a_row_does_not_depend_on_its_neighbours[3-None]",
         "test_checkpoint.py::test_logits_equal_transformers[heads=6/2-W=5]"),
        "test_model.py::test_logits_equal_the_loops[5-{}]",
    ),
    (16, "zeros"): (
        ("test_cache.py::test_slots_never_written_are_never_attended[3]",
         "test_cache.py::test_each_query_sees_exactly_its_window_for_every_way_to_chunk[3-W]"),
        "test_cache.py::test_a_chunk_keeps_the_keys_its_own_last_tokens_overwrite[3]",
    ),
    (16, "memory"): (
        ("test_cache.py::test_every_way_to_feed_every_cache_gives_the_judges_logits[3]",
         "test_generation.py::test_prefill_gives_each_rows_logits_after_its_last_token[1]"),
        "test_cache.py::test_slots_never_written_are_never_attended[3]",
    ),
    (17, ""): (
        ("test_rope.py::test_angles_at_position_16000_are_right_whatever_the_default_dtype[dtype0]",
         "test_rope.py::test_a_score_depends_only_on_the_distance"),
        "test_cache.py::test_every_way_to_feed_every_cache_gives_the_judges_logits[1]",
    ),
    (18, "fewer"): (
        ("test_checkpoint.py::test_a_config_with_another_depth_than_the_weights[1]",
         "test_checkpoint.py::test_an_extra_tensor_is_named[lora.weight]"),
        "test_checkpoint.py::test_saving_and_loading_changes_nothing[dtype0]",
    ),
    (18, "random"): (
        ("test_checkpoint.py::test_a_missing_tensor_is_named",
         "test_checkpoint.py::test_a_config_json_with_another_depth_than_the_weights[4]"),
        "test_checkpoint.py::test_saving_and_loading_changes_nothing[dtype0]",
    ),
    (18, "regrouped"): (
        ("test_checkpoint.py::test_logits_equal_transformers[heads=6/2-W=5]",
         "test_checkpoint.py::test_both_formats_need_a_choice_and_give_the_same_logits"),
        "test_checkpoint.py::test_heads_of_the_wrong_number_are_refused",
    ),
}  # fmt: skip
