"""Which test shows what each of the public names does: a row for each, by area. `test_api_names.py` keeps it true."""

from __future__ import annotations

_ACTORS = "tests/api/test_actors.py::test_"
_ALIKE = "tests/api/test_calls_alike.py::test_"
_CALLS = "tests/api/test_options_at_the_call.py::test_"
_CLUSTERS = "tests/asyncio_face/test_clusters.py::test_"
_CONTEXT = "tests/calls/test_runtime_context.py::test_"
_DAG = "tests/dag/test_graphs.py::test_"
_DEADLINES = "tests/calls/test_deadlines.py::test_"
_ENDS = "tests/api/test_small_errors.py::test_"
_ERRORS = "tests/api/test_errors.py::test_"
_FUTURES = "tests/asyncio_face/test_futures.py::test_"
_GPUS = "tests/processes/test_gpus.py::test_"
_METRICS = "tests/util/test_metrics.py::test_"
_GROUPS = "tests/api/test_placement_groups.py::test_"
_STATE = "tests/util/test_state.py::test_"
_ITER = "tests/util/test_iter.py::test_"
_OBJECTS = "tests/api/test_objects.py::test_"
_RESTARTS = "tests/api/test_actor_restarts.py::test_"
_RETRIES = "tests/calls/test_retries.py::test_"
_SMALL = "tests/api/test_small_names.py::test_"
_STRATEGIES = "tests/api/test_scheduling_strategies.py::test_"
_STREAMING = "tests/api/test_streaming.py::test_"
_TASKS = "tests/api/test_tasks.py::test_"
_UTIL = "tests/util/test_small_things.py::test_"

NAMES: dict[str, dict[str, str]] = {
    "aioray": {
        _CALLS + "init_and_shutdown_five_times_in_a_row": "init shutdown is_initialized",
        _CALLS + "remote_takes_functions_and_classes_and_options_by_name": "remote",
        _CALLS + "the_resources_of_the_machine_are_what_init_said": "cluster_resources available_resources nodes",
        _CLUSTERS + "connect_and_disconnect_without_a_block": "connect disconnect",
        "tests/util/test_state.py::test_what_workers_were_busy_with_is_a_trace_of_chrome": "timeline",
        "tests/api/test_what_is_shown.py::test_a_cluster_shows_its_node_and_what_became_of_it": "Cluster",
        _TASKS + "a_function_returns_a_ref_and_get_returns_the_value": "get",
        _TASKS + "what_no_node_has_is_said_at_once_and_can_be_asked_about": "explain",
        _OBJECTS + "a_value_survives_put_argument_and_return": "put",
        _OBJECTS + "wait_returns_what_is_done_in_the_order_given_and_at_most_as_many_as_asked": "wait",
        _SMALL + "there_is_one_ref_to_nothing": "ObjectRef",
        _FUTURES + "as_completed_yields_refs_as_they_get_done": "as_completed",
        "tests/calls/test_cancel_states.py::test_a_task_that_waits_for_a_lease_never_runs": "cancel",
        _ACTORS + "kill_fails_calls_under_way_queued_and_later_with_the_reason": "kill",
        _ACTORS + "a_named_actor_is_found_at_once_and_anywhere_in_its_namespace": "get_actor",
        _ACTORS + "a_method_with_two_returns_gives_two_refs": "method",
        _GPUS + "two_gpus_are_both_and_a_task_without_sees_none": "get_gpu_ids",
        _CONTEXT + "in_a_driver_there_is_no_call": "get_runtime_context runtime_context",
        _CONTEXT + "ids_of_different_kinds_are_never_equal": """
            ActorID NodeID JobID WorkerID TaskID ObjectID PlacementGroupID
            """,
        _STREAMING + "a_generator_function_gives_a_generator_of_refs": "ObjectRefGenerator",
        _STREAMING + "dynamic_returns_are_one_value_that_has_all_refs": "DynamicObjectRefGenerator",
        "tests/processes/test_logging_config.py::test_records_in_json_say_which_call_they_are_from": "LoggingConfig",
        "tests/api/test_checkpoints.py::test_every_third_call_is_saved_and_those_since_are_lost": "checkpoint",
        "tests/api/test_typed_actors.py::test_a_typed_actor_is_called_as_any_other": "Actor ActorHandle",
        _ACTORS + "what_is_remote_is_not_called_directly": "ActorClass",
        _RESTARTS + "exit_actor_is_for_good_runs_what_was_registered_and_says_so": "actor",
        _UTIL + "util_is_there_without_being_imported_with_the_package": "util",
        _ERRORS + "a_user_exception_arrives_as_itself_and_as_a_ray_task_error": "exceptions",
        "tests/runtime_env/test_runtime_env.py::test_a_runtime_env_is_checked_copied_and_pickled": "runtime_env",
        _DAG + "a_chain_of_functions_runs_with_each_input": "dag",
        _SMALL + "cloudpickle_is_at_hand": "cloudpickle",
        _SMALL + "locations_of_objects_are_told": "experimental",
        "tests/api/test_job_config.py::test_a_job_config_is_what_init_takes_otherwise": "job_config",
        "tests/testing/test_local_cluster.py::test_without_an_event_loop_nodes_come_and_go": "testing",
        "tests/test_cluster_utils.py::test_nodes_are_added_and_removed_while_a_program_runs": "cluster_utils",
    },
    "aioray.actor": {
        _RESTARTS + "exit_actor_is_for_good_runs_what_was_registered_and_says_so": "exit_actor",
        "tests/api/test_typed_actors.py::test_a_typed_actor_is_called_as_any_other": "ActorHandle",
    },
    "aioray.cloudpickle": {_SMALL + "cloudpickle_is_at_hand": "dumps loads CloudPickler"},
    "aioray.cluster_utils": {
        "tests/test_cluster_utils.py::test_nodes_are_added_and_removed_while_a_program_runs": "Cluster",
    },
    "aioray.dag": {
        _DAG + "a_chain_of_functions_runs_with_each_input": "InputNode FunctionNode",
        _DAG + "several_outputs_and_several_values_of_one_call": "MultiOutputNode",
        _DAG + "a_long_chain_is_no_deeper_than_a_short_one": "DAGNode",
        _DAG + "a_node_of_an_actor_is_no_method": "ClassNode",
        _DAG + "nodes_are_of_the_kinds_that_ray_has": "ClassMethodNode InputAttributeNode",
    },
    "aioray.exceptions": {
        _CLUSTERS + "calls_under_way_fail_when_the_cluster_ends": "RayError",
        _ERRORS + "a_user_exception_arrives_as_itself_and_as_a_ray_task_error": "RayTaskError",
        _ACTORS + "an_actor_whose_process_ends_says_how": "ActorDiedError",
        _RESTARTS + "a_cluster_ends_while_actors_are_being_restarted": "RayActorError",
        _RESTARTS + "calls_under_way_without_retries_fail_saying_so_and_those_not_sent_wait": "ActorUnavailableError",
        _ERRORS + "a_queued_task_that_is_cancelled_never_runs": "TaskCancelledError",
        _ERRORS + "the_death_of_its_worker_is_the_tasks_error_and_nobody_elses": "WorkerCrashedError",
        "tests/cluster/test_tasks_on_many_nodes.py::test_tasks_of_a_node_that_dies_are_tried_again_elsewhere": """
            NodeDiedError
            """,
        _ERRORS + "a_get_timeout_leaves_the_cluster_as_it_was": "GetTimeoutError",
        _SMALL + "random_refs_differ_and_are_to_nothing": "ObjectLostError",
        _ENDS + "a_ref_to_what_nobody_will_make_any_more_says_that_its_owner_died": "OwnerDiedError",
        _OBJECTS + "what_can_never_fit_is_refused_at_once_with_the_figures": "ObjectStoreFullError",
        "tests/api/test_runtime_env.py::test_a_failing_install_says_what_pip_said_and_disturbs_nobody": """
            RuntimeEnvSetupError
            """,
        _GROUPS + "tasks_in_a_group_that_is_removed_fail_and_are_not_tried_again": "TaskPlacementGroupRemoved",
        _GROUPS + "actors_in_a_group_that_is_removed_die_and_stay_dead": "ActorPlacementGroupRemoved",
        _RESTARTS + "too_many_pending_calls_are_refused_at_the_call": "PendingCallsLimitExceeded",
        _STRATEGIES + "a_task_bound_to_a_node_that_does_not_exist_fails_and_so_do_all_of_its_kind": """
            TaskUnschedulableError
            """,
        _STRATEGIES + "an_actor_bound_to_a_node_that_does_not_exist_is_dead_before_it_was_alive": """
            ActorUnschedulableError
            """,
        _ACTORS + "a_name_is_taken_in_its_own_namespace_only": "ActorAlreadyExistsError",
        "tests/gcs/test_app.py::test_a_node_with_another_token_is_refused_and_does_not_try_again": """
            AuthenticationError
            """,
        _ENDS + "exit_actor_raises_asyncio_actor_exit_in_an_async_method_which_may_clean_up": "AsyncioActorExit",
        _STREAMING + "the_next_ref_of_a_generator_that_ends_before_says_so": "ObjectRefStreamEndOfStreamError",
        _ERRORS + "an_exception_that_cannot_be_pickled_arrives_as_text": "UnserializableException",
        _CLUSTERS + "a_head_that_dies_fails_what_waits_and_what_comes": "RaySystemError",
    },
    "aioray.experimental": {
        _SMALL + "locations_of_objects_are_told": "get_object_locations get_local_object_locations"
    },
    "aioray.job_config": {
        "tests/api/test_job_config.py::test_a_job_config_is_what_init_takes_otherwise": "JobConfig",
    },
    "aioray.runtime_context": {_CONTEXT + "in_a_driver_there_is_no_call": "RuntimeContext get_runtime_context"},
    "aioray.runtime_env": {
        "tests/runtime_env/test_runtime_env.py::test_a_runtime_env_is_checked_copied_and_pickled": "RuntimeEnv",
    },
    "aioray.testing": {
        "tests/testing/test_local_cluster.py::test_without_an_event_loop_nodes_come_and_go": "LocalCluster",
    },
    "aioray.util": {
        "tests/util/test_actor_pool.py::test_map_gives_the_results_in_the_order_of_the_values": "ActorPool",
        "tests/util/test_completion.py::test_values_come_in_the_order_in_which_they_are_done": "as_completed",
        "tests/util/test_completion.py::test_map_unordered_calls_the_function_for_each_item": "map_unordered",
        "tests/util/test_serialization.py::test_each_culprit_is_named_by_the_path_to_it": "inspect_serializability",
        "tests/util/test_serialization.py::test_a_registered_class_goes_to_tasks_and_comes_back_from_them": """
            register_serializer
            """,
        "tests/util/test_serialization.py::test_after_deregistering_everything_is_as_before": "deregister_serializer",
        _UTIL + "named_actors_are_listed": "list_named_actors",
        _UTIL + "the_address_of_this_machine_is_one": "get_node_ip_address",
        _UTIL + "a_group_is_called_as_one": "ActorGroup actor_group",
        "tests/util/test_executor.py::test_calls_run_in_other_processes": "Executor",
        _UTIL + "something_is_said_once": "log_once",
        _UTIL + "a_bar_of_a_task_is_shown_at_the_driver": "tqdm",
        _GROUPS + "what_a_group_books_is_its_own_until_it_is_removed": "placement_group remove_placement_group",
        _GROUPS + "groups_have_names_of_which_each_is_there_once": "get_placement_group",
        _GROUPS + "children_follow_into_the_group_if_it_captures_and_they_do_not_object": "get_current_placement_group",
        _GROUPS + "the_table_says_where_each_group_stands": "placement_group_table",
        "tests/util/test_queue.py::test_items_come_out_in_the_order_in_which_they_went_in": "queue",
        "tests/util/test_multiprocessing.py::test_apply_calls_with_positional_and_named_arguments": "multiprocessing",
        "tests/util/test_joblib.py::test_parallel_calls_run_on_the_cluster": "joblib",
        "tests/util/test_collective.py::test_allreduce_leaves_the_same_reduction_with_all": "collective",
        _ITER + "items_are_dealt_out_in_turn_and_ranges_in_stretches": "iter",
        _ITER + "accelerators_have_rays_names": "accelerators",
        _STATE + "what_becomes_of_tasks_is_told": "state",
        _METRICS + "what_driver_tasks_and_actors_count_is_added_up": "metrics",
    },
    "aioray.util.actor_group": {_UTIL + "a_group_is_called_as_one": "ActorGroup"},
    "aioray.util.iter": {
        _ITER + "items_are_dealt_out_in_turn_and_ranges_in_stretches": "from_items from_range",
        _ITER + "iterables_and_functions_that_give_one_may_repeat": "from_iterators",
        _ITER + "an_actor_of_ones_own_can_be_asked_other_things_meanwhile": "from_actors",
        _ITER + "iterators_are_passed_to_tasks": "ParallelIterator LocalIterator",
    },
    "aioray.util.joblib": {
        "tests/util/test_joblib.py::test_parallel_calls_run_on_the_cluster": "register_ray register_aioray",
    },
    "aioray.util.metrics": {
        _METRICS + "what_driver_tasks_and_actors_count_is_added_up": "Counter Gauge Histogram prometheus_text",
    },
    "aioray.util.multiprocessing": {
        "tests/util/test_multiprocessing.py::test_apply_calls_with_positional_and_named_arguments": "Pool",
    },
    "aioray.util.placement_group": {
        _GROUPS + "what_a_group_books_is_its_own_until_it_is_removed": """
            PlacementGroup placement_group remove_placement_group
            """,
        _GROUPS + "groups_have_names_of_which_each_is_there_once": "get_placement_group",
        _GROUPS + "children_follow_into_the_group_if_it_captures_and_they_do_not_object": "get_current_placement_group",
        _GROUPS + "the_table_says_where_each_group_stands": "placement_group_table",
    },
    "aioray.util.queue": {
        "tests/util/test_queue.py::test_items_come_out_in_the_order_in_which_they_went_in": "Queue",
        "tests/util/test_queue.py::test_an_empty_queue_refuses_or_waits": "Empty",
        "tests/util/test_queue.py::test_a_full_queue_refuses_or_waits": "Full",
    },
    "aioray.util.state": {
        _STATE + "what_becomes_of_tasks_is_told": "list_tasks get_task",
        _STATE + "tasks_and_actors_that_are_not_to_be_told_of_are_left_out": "summarize_tasks",
        _STATE + "calls_of_actors_are_told_and_so_are_actors": "list_actors get_actor summarize_actors",
        _STATE + "nodes_jobs_and_placement_groups_are_listed": """
            list_nodes get_node list_jobs list_placement_groups get_placement_group
            """,
    },
    "aioray.util.scheduling_strategies": {
        _STRATEGIES + "tasks_and_actors_run_where_their_conditions_hold": """
            NodeAffinitySchedulingStrategy NodeLabelSchedulingStrategy In NotIn Exists DoesNotExist
            """,
        _GROUPS + "what_a_group_books_is_its_own_until_it_is_removed": "PlacementGroupSchedulingStrategy",
    },
}

MEMBERS: dict[str, dict[str, str]] = {
    "ObjectRef": {
        _SMALL + "there_is_one_ref_to_nothing": "binary is_nil nil",
        _SMALL + "random_refs_differ_and_are_to_nothing": "from_random hex",
        _CONTEXT + "tasks_and_nested_tasks_know_the_driver_and_themselves": "task_id",
        _CONTEXT + "in_a_driver_there_is_no_call": "job_id",
        _FUTURES + "a_concurrent_future_has_the_same_outcome": "future",
    },
    "runtime_context.RuntimeContext": {
        _CONTEXT + "in_a_driver_there_is_no_call": "job_id node_id worker_id get_node_id namespace gcs_address",
        _CONTEXT + "tasks_and_nested_tasks_know_the_driver_and_themselves": """
            task_id runtime_env is_canceled get_job_id get_worker_id get_task_id get_task_name get_task_function_name
            get_assigned_resources get_session_name get_temp_dir get_runtime_env_string
            """,
        _CONTEXT + "actors_know_themselves_in_methods_of_all_kinds": """
            actor_id get_actor_id get_actor_name current_actor was_current_actor_reconstructed
            """,
        _GPUS + "two_gpus_are_both_and_a_task_without_sees_none": "get_accelerator_ids",
        _STRATEGIES + "a_node_has_the_labels_that_it_was_given_and_its_own": "get_node_labels",
        _GROUPS + "children_follow_into_the_group_if_it_captures_and_they_do_not_object": """
            get_placement_group_id should_capture_child_tasks_in_placement_group
            """,
    },
    "ActorHandle": {
        "tests/api/test_messages.py::test_an_actor_says_when_it_is_ready": "__ray_ready__",
        _RESTARTS + "ray_call_runs_a_function_on_the_actor": "__ray_call__",
        _RESTARTS + "ray_terminate_comes_after_what_was_called_before": "__ray_terminate__",
    },
    "dag.DAGNode": {
        _DAG + "a_chain_of_functions_runs_with_each_input": "execute",
        "tests/dag/test_compiled.py::test_passes_wait_for_room_and_say_so_when_there_is_none": "experimental_compile",
    },
    "cluster_utils.Cluster": {
        "tests/test_cluster_utils.py::test_nodes_are_added_and_removed_while_a_program_runs": """
            add_node remove_node wait_for_nodes list_all_nodes connect
            """,
        "tests/test_cluster_utils.py::test_a_program_may_connect_by_the_address": "address shutdown",
    },
}

# Options that are not refused. Those of both kinds are shown with tasks.
OPTIONS: dict[str, dict[str, str]] = {
    "init": {
        "tests/test_cluster_utils.py::test_a_program_may_connect_by_the_address": "address",
        _CALLS + "the_resources_of_the_machine_are_what_init_said": "num_cpus resources",
        _GPUS + "two_gpus_are_both_and_a_task_without_sees_none": "num_gpus",
        _STRATEGIES + "a_node_has_the_labels_that_it_was_given_and_its_own": "labels",
        _OBJECTS + "what_can_never_fit_is_refused_at_once_with_the_figures": "object_store_memory",
        _CALLS + "init_twice_is_an_error_unless_it_is_said_not_to_be": "ignore_reinit_error",
        "tests/api/test_job_config.py::test_a_job_config_is_what_init_takes_otherwise": "job_config",
        _CALLS + "the_logger_of_the_package_is_configured_as_init_says": """
            configure_logging logging_level logging_format
            """,
        "tests/processes/test_logging_config.py::test_records_in_json_say_which_call_they_are_from": "logging_config",
        "tests/processes/test_logs.py::test_a_driver_that_does_not_want_to_hear_hears_nothing": "log_to_driver",
        _CONTEXT + "the_namespace_of_the_driver_holds_in_all_it_calls": "namespace",
        "tests/api/test_runtime_env.py::test_the_jobs_variables_are_everywhere_and_those_of_a_task_are_added": """
            runtime_env
            """,
        "tests/worker/test_functions_cluster.py::test_more_functions_than_a_worker_keeps_are_called_in_turn": """
            _system_config
            """,
        _CALLS + "a_place_for_sessions_that_cannot_be_used_is_an_error_of_init": "_temp_dir",
        _CALLS + "a_head_with_an_address_is_joined_there_from_elsewhere": "_node_ip_address",
        "tests/api/test_inline.py::test_a_head_in_this_process_does_what_one_beside_it_does": "inline",
    },
    "task": {
        _TASKS + "fractions_of_every_resource_are_taken_and_come_back": """
            num_cpus resources memory object_store_memory
            """,
        _GPUS + "halves_share_a_gpu_and_a_whole_one_gets_the_other": "num_gpus",
        _GPUS + "a_kind_of_gpu_can_be_asked_for": "accelerator_type",
        _STRATEGIES + "tasks_and_actors_run_where_their_conditions_hold": """
            label_selector fallback_strategy scheduling_strategy
            """,
        _GROUPS + "what_cannot_be_in_a_group_is_refused_at_the_call": "placement_group placement_group_bundle_index",
        _GROUPS + "children_follow_into_the_group_if_it_captures_and_they_do_not_object": """
            placement_group_capture_child_tasks
            """,
        "tests/api/test_runtime_env.py::test_the_jobs_variables_are_everywhere_and_those_of_a_task_are_added": """
            runtime_env
            """,
        _CALLS + "a_name_for_a_call_shows_in_its_error": "name",
        _STATE + "tasks_and_actors_that_are_not_to_be_told_of_are_left_out": "enable_task_events",
        _TASKS + "num_returns_gives_a_ref_for_each_value_and_none_for_none": "num_returns",
        _RETRIES + "retries_count_against_max_retries_and_the_last_error_is_raised": "max_retries",
        _RETRIES + "an_error_that_the_options_name_is_retried": "retry_exceptions",
        _RETRIES + "a_worker_goes_after_max_calls": "max_calls",
        "tests/api/test_speculation.py::"
        "test_the_copy_of_a_straggler_gives_the_result_and_the_straggler_is_cancelled": "speculative",
        _STATE + "tasks_and_actors_are_found_by_their_labels": "_labels",
        _STREAMING + "a_generator_pauses_when_so_many_values_are_not_taken": "_generator_backpressure_num_objects",
        _DEADLINES + "a_running_call_is_stopped_when_its_time_is_up": "timeout",
        _DEADLINES + "a_deadline_is_a_moment": "deadline",
    },
    "actor": {
        _ACTORS + "calls_of_a_threaded_actor_overlap_up_to_max_concurrency_and_no_further": "max_concurrency",
        _RESTARTS + "an_actor_that_died_is_constructed_again_with_the_same_arguments": "max_restarts",
        _RESTARTS + "calls_with_retries_are_sent_again_in_their_order_and_before_later_ones": "max_task_retries",
        _RESTARTS + "too_many_pending_calls_are_refused_at_the_call": "max_pending_calls",
        _ACTORS + "a_detached_actor_lives_without_handles_until_it_is_killed": "lifetime",
        _ACTORS + "a_name_is_taken_in_its_own_namespace_only": "namespace",
        _ACTORS + "get_if_exists_finds_the_one_or_makes_it": "get_if_exists",
        "tests/api/test_concurrency_groups.py::test_calls_of_a_group_run_at_once_up_to_its_limit": "concurrency_groups",
        _RESTARTS + "a_late_argument_holds_up_no_other_call_of_an_async_actor": "allow_out_of_order_execution",
        "tests/api/test_light_actors.py::test_they_share_a_process_and_keep_their_state_apart": "isolation",
        _STATE + "calls_of_actors_are_told_and_so_are_actors": "_labels",
    },
}

# Errors that are there for programs that name them; nothing raises them yet.
NEVER_RAISED = """
    ObjectReconstructionFailedError ObjectReconstructionFailedMaxAttemptsExceededError
    ObjectReconstructionFailedLineageEvictedError ObjectFreedError ObjectFetchTimedOutError
    ReferenceCountingAssertionError OutOfDiskError OutOfMemoryError
    """
