-- The act, told only when it is on disk, but with its locks let go before: the balance of a hot budget is free while the
-- disk is waited for. Why that is sound: docs/decisions/0008. Arguments and answers are those of ledger_act_2, which
-- decides, and which older nodes go on calling by itself.

CREATE PROCEDURE bursar.ledger_act_durably_1(
    p_session integer, p_any_window boolean, p_shrink_id bigint[], p_shrink_to bigint[],
    p_end_id bigint[], p_end_kind smallint[], p_end_cost bigint[], p_end_exact boolean[], p_end_word text[],
    p_end_input bigint[], p_end_output bigint[], p_end_cached bigint[], p_end_reasoning bigint[], p_end_more text[],
    p_id bigint[], p_request text[], p_attempt smallint[], p_label bigint[], p_directory bigint[], p_ceiling bigint[],
    p_expected bigint[], p_input bigint[], p_output bigint[], p_legs integer[], p_budget integer[],
    p_mark text[],
    OUT state smallint, OUT t_ns bigint, OUT status smallint[], OUT told text[], OUT budgets integer[], OUT room bigint[],
    OUT events jsonb[]
) LANGUAGE plpgsql AS $$
DECLARE
    v_level text := current_setting('synchronous_commit');
BEGIN
    SELECT * INTO state, t_ns, status, told, budgets, room, events FROM bursar.ledger_act_2(p_session, p_any_window,
        p_shrink_id, p_shrink_to, p_end_id, p_end_kind, p_end_cost, p_end_exact, p_end_word, p_end_input, p_end_output,
        p_end_cached, p_end_reasoning, p_end_more, p_id, p_request, p_attempt, p_label, p_directory, p_ceiling,
        p_expected, p_input, p_output, p_legs, p_budget, p_mark);
    IF cardinality(events) > 0 THEN -- the outbox of what owners are told
        INSERT INTO bursar.ledger_event (t_ns, told) SELECT ledger_act_durably_1.t_ns, unnest(events);
    END IF;
    PERFORM set_config('synchronous_commit', 'off', true); -- of this transaction: decided, seen by all, not yet on disk
    COMMIT;
    -- A second transaction that changes nothing but must be as durable as the database is set up to be: what lies
    -- before it in the log is then as durable, the act among it. Without a row of the log and an id nothing is waited for.
    IF v_level = 'off' THEN -- a hold that is told must be there after a crash
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    PERFORM pg_logical_emit_message(true, 'bursar', '');
END $$;
