-- The act with the tokens of its holds. What revokes one is an entry of the directory, there from the moment in which the
-- change that wrote it stands, whichever version of Bursar wrote it, and gone when the token has ended: the act looks for it
-- by its name. Acts without tokens do not look. Nodes of the version before go on with `ledger_act_1`, which is this one
-- without tokens.

CREATE FUNCTION bursar.ledger_act_2(
    p_session integer,
    p_any_window boolean, -- hold in the current windows even if their time is over
    p_shrink_id bigint[], p_shrink_to bigint[],
    -- ends: 6 post, 7 void; word `unreconciled` posts the present ceiling, and may be corrected later
    p_end_id bigint[], p_end_kind smallint[], p_end_cost bigint[], p_end_exact boolean[], p_end_word text[],
    p_end_input bigint[], p_end_output bigint[], p_end_cached bigint[], p_end_reasoning bigint[], p_end_more text[],
    -- holds, and the budgets of each, one hold after the other
    p_id bigint[], p_request text[], p_attempt smallint[], p_label bigint[], p_directory bigint[], p_ceiling bigint[],
    p_expected bigint[], p_input bigint[], p_output bigint[], p_legs integer[], p_budget integer[],
    p_mark text[], -- of each hold the entry that would revoke its token, '' = it has none; empty: none of them has
    OUT state smallint, -- 0 done; 1 the session is over, 2 these ids were given up: nothing was done
    OUT t_ns bigint,
    OUT status smallint[], -- of each hold: 0 held, 1 refused, 2 a window is due, 3 a budget is not known, 4 paused
    OUT told text[], -- held: shadow budgets that would refuse; refused: what its budgets had; 3: the budget; 4: who, why
    OUT budgets integer[], -- all that were touched
    OUT room bigint[], -- what is left of each
    OUT events jsonb[] -- what owners are to be told
) LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_mergejoin = off SET jit = off
AS $$
DECLARE
    v_last bigint; v_latest bigint; v_earliest bigint;
    v_no integer[]; v_version bigint[]; v_limit numeric[]; v_hard boolean[]; v_enforced boolean[]; v_tracked boolean[]; v_mark numeric[];
    v_number integer[]; v_start bigint[]; v_end bigint[]; v_leg text[];
    v_posted numeric[]; v_held numeric[]; v_overage numeric[]; v_closed boolean[];
    v_oposted numeric[]; v_oheld numeric[]; v_oclosed boolean[];
    v_paused bigint[]; v_why text[]; v_revoked text[];
    v_ended bigint[] := '{}';
    v_legs text[]; v_asked text[]; v_all boolean;
    v_due boolean; v_was_closed boolean; v_counted boolean;
    v_amount numeric; v_cost numeric; v_over numeric; v_delta numeric;
    v_status smallint; v_told text; v_text text;
    b integer; k integer; v_first integer; v_next integer;
    r record;
BEGIN
    IF current_setting('synchronous_commit') = 'off' THEN -- a hold that is told must be there after a crash
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    status := '{}'; told := '{}'; events := '{}';

    -- the session
    SELECT s.last_hold INTO v_last FROM bursar.ledger_session s
        WHERE s.id = p_session AND s.ended_ns IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        state := 1; RETURN;
    END IF;
    IF p_id[1] <= v_last THEN
        state := 2; RETURN;
    END IF;

    -- The budgets, locked in the order of their numbers. Named by an array: a join would read all that there are.
    IF cardinality(p_end_id) + cardinality(p_shrink_id) > 0 THEN
        SELECT array_agg(DISTINCT x.no) INTO v_no FROM (
            SELECT unnest(p_budget) AS no
            UNION ALL SELECT l.part::integer FROM bursar.ledger_hold h, unnest(h.legs) WITH ORDINALITY AS l(part, place)
                WHERE h.id = ANY(p_end_id || p_shrink_id) AND l.place % 4 = 1
            UNION ALL SELECT l.part::integer FROM bursar.ledger_late h, unnest(h.legs) WITH ORDINALITY AS l(part, place)
                WHERE h.hold_id = ANY(p_end_id) AND l.place % 4 = 1
        ) x;
    ELSE
        v_no := p_budget;
    END IF;
    SELECT array_agg(x.no), array_agg(x.version), array_agg(x."limit"), array_agg(x.hard), array_agg(x.enforced), array_agg(x.tracked),
        array_agg(x.next_mark), array_agg(x.number), array_agg(x.start_ns), array_agg(x.end_ns), array_agg(x.posted),
        array_agg(x.held), array_agg(x.overage), array_agg(x.closed), array_agg(x.other_posted),
        array_agg(x.other_held), array_agg(x.other_closed),
        array_agg(x.no || ',' || x.version || ',' || x.number || ',' || x.hard::integer),
        max(x.start_ns) FILTER (WHERE x.tracked), min(x.end_ns) FILTER (WHERE x.tracked)
    INTO v_no, v_version, v_limit, v_hard, v_enforced, v_tracked, v_mark, v_number, v_start, v_end, v_posted, v_held, v_overage,
        v_closed, v_oposted, v_oheld, v_oclosed, v_leg, v_latest, v_earliest
    FROM (
        SELECT g.* FROM bursar.ledger_budget g WHERE g.no = ANY(v_no) ORDER BY g.no FOR UPDATE
    ) x;
    t_ns := bursar.ledger_now();

    -- shrinks
    IF cardinality(p_shrink_id) > 0 THEN
        FOR r IN
            WITH was AS MATERIALIZED (
                SELECT h.id, h.ceiling, h.legs, e.ceiling AS lowered
                FROM unnest(p_shrink_id, p_shrink_to) AS e(id, ceiling) JOIN bursar.ledger_hold h ON h.id = e.id
                WHERE e.ceiling < h.ceiling FOR UPDATE OF h
            ), done AS (
                UPDATE bursar.ledger_hold h SET ceiling = w.lowered FROM was w WHERE h.id = w.id
            ), booked AS (
                INSERT INTO bursar.ledger (seq, t_ns, kind, hold_id, amount, held)
                SELECT nextval('bursar.ledger_seq'), ledger_act_2.t_ns, 5, w.id, w.lowered, w.ceiling - w.lowered FROM was w
            )
            SELECT w.legs, w.ceiling - w.lowered AS released FROM was w
        LOOP
            FOR i IN 1 .. cardinality(r.legs) BY 4 LOOP
                CONTINUE WHEN r.legs[i + 3] = 0;
                b := width_bucket(r.legs[i]::integer, v_no);
                IF r.legs[i + 2] = v_number[b] THEN
                    v_held[b] := v_held[b] - r.released;
                ELSE
                    UPDATE bursar.ledger_window w SET held = w.held - r.released
                        WHERE w.budget = v_no[b] AND w.number = r.legs[i + 2] RETURNING w.counted INTO v_counted;
                    IF FOUND AND v_counted THEN
                        v_oheld[b] := v_oheld[b] - r.released;
                    END IF;
                END IF;
            END LOOP;
        END LOOP;
    END IF;

    -- ends
    IF cardinality(p_end_id) > 0 THEN
        FOR r IN
            WITH gone AS MATERIALIZED (
                DELETE FROM bursar.ledger_hold h WHERE h.id = ANY(p_end_id) RETURNING h.*
            ), ended AS MATERIALIZED (
                SELECT nextval('bursar.ledger_seq') AS seq, g.id, g.t_ns, g.label, g.request_id, g.ceiling, g.expected, g.legs,
                    e.kind, e.exact, e.word, e.input, e.output, e.cached, e.reasoning, e.more,
                    CASE WHEN e.kind = 7 THEN 0 WHEN e.word = 'unreconciled' THEN g.ceiling ELSE e.cost END AS cost
                FROM gone g JOIN unnest(p_end_id, p_end_kind, p_end_cost, p_end_exact, p_end_word, p_end_input,
                    p_end_output, p_end_cached, p_end_reasoning, p_end_more)
                    AS e(id, kind, cost, exact, word, input, output, cached, reasoning, more) ON e.id = g.id
            ), late AS (
                INSERT INTO bursar.ledger_late SELECT e.id, ledger_act_2.t_ns, e.cost, e.legs FROM ended e
                WHERE e.kind = 6 AND e.word = 'unreconciled'
            ), booked AS (
                INSERT INTO bursar.ledger (seq, t_ns, kind, hold_id, label, amount, held, expected, overage, input_tokens,
                    output_tokens, cache_read, reasoning, usage_more, held_ns, exact, word)
                SELECT e.seq, ledger_act_2.t_ns, e.kind, e.id, e.label, CASE e.kind WHEN 6 THEN e.cost END, e.ceiling,
                    e.expected, CASE e.kind WHEN 6 THEN greatest(0, e.cost - e.ceiling) END, e.input, e.output, e.cached,
                    e.reasoning, e.more::jsonb, e.t_ns, e.exact, e.word
                FROM ended e
            )
            SELECT e.id, e.kind, e.label, e.request_id, e.ceiling, e.expected, e.legs, e.word, e.cost FROM ended e
        LOOP
            v_ended := v_ended || r.id;
            v_cost := r.cost;
            FOR i IN 1 .. cardinality(r.legs) BY 4 LOOP
                b := width_bucket(r.legs[i]::integer, v_no);
                IF r.legs[i + 3] = 1 THEN
                    v_amount := r.ceiling; v_over := greatest(0, v_cost - r.ceiling);
                ELSE
                    v_amount := r.expected; v_over := 0;
                END IF;
                v_was_closed := v_closed[b] OR v_oclosed[b];
                IF r.legs[i + 2] = v_number[b] THEN
                    v_held[b] := v_held[b] - v_amount;
                    v_posted[b] := v_posted[b] + v_cost;
                    v_counted := true;
                    IF v_over > 0 THEN
                        v_overage[b] := v_overage[b] + v_over; v_closed[b] := true;
                    END IF;
                ELSE
                    UPDATE bursar.ledger_window w SET held = w.held - v_amount, posted = w.posted + v_cost,
                        overage = w.overage + v_over, closed = w.closed OR v_over > 0
                        WHERE w.budget = v_no[b] AND w.number = r.legs[i + 2] RETURNING w.counted INTO v_counted;
                    v_counted := FOUND AND v_counted;
                    IF v_counted THEN
                        v_oheld[b] := v_oheld[b] - v_amount;
                        v_oposted[b] := v_oposted[b] + v_cost;
                        v_oclosed[b] := v_oclosed[b] OR v_over > 0;
                    END IF;
                END IF;
                IF v_over > 0 THEN
                    v_text := jsonb_build_object('kind', 'closed', 'budget', v_no[b], 'window', r.legs[i + 2], 'hold', r.id,
                        'label', r.label, 'request_id', r.request_id, 'posted', (v_posted[b] + v_oposted[b])::text,
                        'held', (v_held[b] + v_oheld[b])::text, 'amount', v_over::text);
                    IF v_counted AND NOT v_was_closed THEN
                        events := events || v_text::jsonb;
                    END IF;
                    events := events || (v_text::jsonb || '{"kind": "overage"}');
                END IF;
            END LOOP;
            IF r.word = 'unreconciled' AND r.kind = 6 THEN
                events := events || jsonb_build_object('kind', 'unreconciled', 'hold', r.id, 'label', r.label,
                    'request_id', r.request_id, 'amount', v_cost::text);
            END IF;
        END LOOP;

        -- Ends of holds that are not open: a late word on one posted as unreconciled, one that was never made, or nothing.
        IF cardinality(v_ended) < cardinality(p_end_id) THEN
            FOR r IN
                SELECT e.*, a.cost AS booked, a.legs FROM unnest(p_end_id, p_end_kind, p_end_cost, p_end_exact, p_end_word,
                    p_end_input, p_end_output, p_end_cached, p_end_reasoning, p_end_more)
                    AS e(id, kind, cost, exact, word, input, output, cached, reasoning, more)
                LEFT JOIN bursar.ledger_late a ON a.hold_id = e.id
                WHERE e.id <> ALL(v_ended) AND e.word <> 'unreconciled' ORDER BY e.id
            LOOP
                IF r.booked IS NOT NULL THEN
                    DELETE FROM bursar.ledger_late a WHERE a.hold_id = r.id;
                    CONTINUE WHEN NOT FOUND;
                    v_delta := CASE r.kind WHEN 6 THEN r.cost ELSE 0 END - r.booked;
                    INSERT INTO bursar.ledger (seq, t_ns, kind, hold_id, amount, input_tokens, output_tokens, cache_read,
                        reasoning, usage_more, exact, word, legs)
                    VALUES (nextval('bursar.ledger_seq'), t_ns, 8, r.id, v_delta, r.input, r.output, r.cached, r.reasoning,
                        r.more::jsonb, r.exact, 'late: ' || r.word, r.legs);
                    FOR i IN 1 .. cardinality(r.legs) BY 4 LOOP
                        b := width_bucket(r.legs[i]::integer, v_no);
                        v_counted := r.legs[i + 2] = v_number[b];
                        IF v_counted THEN
                            v_posted[b] := v_posted[b] + v_delta;
                        ELSE
                            UPDATE bursar.ledger_window w SET posted = w.posted + v_delta
                                WHERE w.budget = v_no[b] AND w.number = r.legs[i + 2] RETURNING w.counted INTO v_counted;
                            CONTINUE WHEN NOT FOUND;
                            IF v_counted THEN
                                v_oposted[b] := v_oposted[b] + v_delta;
                            END IF;
                        END IF;
                        IF r.legs[i + 3] = 1 AND v_delta > 0
                                AND v_posted[b] + v_oposted[b] + v_held[b] + v_oheld[b] > v_limit[b] THEN
                            IF r.legs[i + 2] = v_number[b] THEN
                                v_closed[b] := true;
                            ELSE
                                UPDATE bursar.ledger_window w SET closed = true
                                    WHERE w.budget = v_no[b] AND w.number = r.legs[i + 2];
                                v_oclosed[b] := v_oclosed[b] OR v_counted;
                            END IF;
                            events := events || jsonb_build_object('kind', 'adjusted', 'budget', v_no[b], 'hold', r.id,
                                'posted', (v_posted[b] + v_oposted[b])::text, 'held', (v_held[b] + v_oheld[b])::text,
                                'amount', v_delta::text);
                        END IF;
                    END LOOP;
                ELSIF r.kind = 7 AND r.id >> 39 = p_session AND r.id > v_last THEN
                    INSERT INTO bursar.ledger (seq, t_ns, kind, hold_id, held, expected, word)
                        VALUES (nextval('bursar.ledger_seq'), t_ns, 7, r.id, 0, 0, r.word);
                    v_last := r.id;
                END IF;
            END LOOP;
        END IF;

        FOR b IN
            SELECT u.place FROM (SELECT unnest(v_posted) AS posted, unnest(v_oposted) AS oposted, unnest(v_mark) AS mark,
                generate_subscripts(v_no, 1) AS place) AS u WHERE u.posted + u.oposted >= u.mark
        LOOP
            v_amount := v_posted[b] + v_oposted[b];
            SELECT max(m) FILTER (WHERE m <= v_amount), min(m) FILTER (WHERE m > v_amount) INTO v_delta, v_over
                FROM bursar.ledger_budget g, unnest(g.marks) m WHERE g.no = v_no[b];
            v_mark[b] := v_over;
            events := events || jsonb_build_object('kind', 'threshold', 'budget', v_no[b], 'window', v_number[b],
                'mark', v_delta::text, 'posted', v_amount::text, 'held', (v_held[b] + v_oheld[b])::text);
        END LOOP;
    END IF;

    -- holds
    IF cardinality(p_id) > 0 THEN
        -- What is gone counts before what is disabled, and a provider key last: as a node tells it that has heard.
        SELECT array_agg(x.label), array_agg(substr(x.why, 2)) INTO v_paused, v_why FROM (
            SELECT a.id AS label, min(CASE WHEN p.kind = 'provider_key' THEN '2' WHEN p.reason = 'gone' THEN '0' ELSE '1' END
                || p.kind || ' ' || p.reason) AS why
            FROM (SELECT DISTINCT unnest(p_label) AS id) u JOIN bursar.ledger_label a ON a.id = u.id
            CROSS JOIN LATERAL (VALUES ('key', a.key_id), ('team', a.team_id), ('owner', a.owner_id),
                ('provider_key', a.secret_id)) s(kind, id)
            JOIN bursar.directory_paused p ON p.kind = s.kind AND p.id = s.id
            GROUP BY a.id
        ) x;
        IF cardinality(p_mark) > 0 THEN
            SELECT array_agg(e.id) INTO v_revoked FROM bursar.directory_entity e
                WHERE e.kind = 'token_mark' AND e.id = ANY(p_mark);
        END IF;
        v_due := NOT p_any_window AND (v_latest > t_ns OR v_earliest <= t_ns);
        v_next := 1;
        FOR i IN 1 .. cardinality(p_id) LOOP
            v_first := v_next; v_next := v_first + p_legs[i];
            v_status := 0; v_told := NULL; v_text := NULL; v_all := true;
            k := array_position(v_paused, p_label[i]);
            IF v_revoked IS NOT NULL AND p_mark[i] = ANY(v_revoked) THEN
                v_status := 4; v_told := 'token revoked';
            ELSIF k IS NOT NULL THEN
                v_status := 4; v_told := v_why[k];
            ELSIF v_due THEN
                FOR j IN v_first .. v_next - 1 LOOP
                    b := width_bucket(p_budget[j], v_no);
                    IF v_tracked[b] AND NOT (v_start[b] <= t_ns AND t_ns < v_end[b]) THEN
                        v_status := 2; EXIT;
                    END IF;
                END LOOP;
            END IF;
            IF v_status = 0 THEN
                FOR j IN v_first .. v_next - 1 LOOP
                    b := width_bucket(p_budget[j], v_no);
                    IF v_no[b] IS DISTINCT FROM p_budget[j] THEN
                        v_status := 3; v_told := p_budget[j]::text; EXIT;
                    END IF;
                    IF NOT v_tracked[b] THEN
                        v_all := false; CONTINUE;
                    END IF;
                    v_amount := CASE WHEN v_hard[b] THEN p_ceiling[i] ELSE p_expected[i] END;
                    IF v_amount > 0 AND (v_closed[b] OR v_oclosed[b]
                            OR v_posted[b] + v_held[b] + v_oposted[b] + v_oheld[b] + v_amount > v_limit[b]) THEN
                        IF v_enforced[b] THEN
                            v_status := 1; EXIT;
                        END IF;
                        v_told := concat_ws(',', v_told, v_no[b]);
                    END IF;
                    v_text := concat_ws(',', v_text, v_leg[b]);
                END LOOP;
                IF v_status = 0 THEN
                    FOR j IN v_first .. v_next - 1 LOOP
                        b := width_bucket(p_budget[j], v_no);
                        IF v_tracked[b] THEN
                            v_held[b] := v_held[b] + CASE WHEN v_hard[b] THEN p_ceiling[i] ELSE p_expected[i] END;
                        END IF;
                    END LOOP;
                ELSIF v_status = 1 THEN
                    v_told := NULL;
                    FOR j IN v_first .. v_next - 1 LOOP
                        b := width_bucket(p_budget[j], v_no);
                        v_told := concat_ws(',', v_told, v_no[b] || ':' || v_version[b] || ':' || (v_posted[b] + v_oposted[b])
                            || ':' || (v_held[b] + v_oheld[b]) || ':' || (v_closed[b] OR v_oclosed[b])::integer);
                    END LOOP;
                END IF;
            END IF;
            status := status || v_status;
            told := told || v_told;
            v_legs := v_legs || ('{' || coalesce(v_text, '') || '}');
            v_asked := v_asked || CASE WHEN NOT v_all THEN p_budget[v_first : v_next - 1]::text END;
        END LOOP;
        WITH made AS MATERIALIZED (
            SELECT nextval('bursar.ledger_seq') AS seq, x.* FROM (
                SELECT u.*, u.legs::bigint[] AS leg, u.budgets::integer[] AS asked FROM unnest(p_id, p_request, p_attempt, p_label,
                    p_directory, p_ceiling, p_expected, p_input, p_output, status, v_legs, v_asked) WITH ORDINALITY AS u(id,
                    request, attempt, label, directory, ceiling, expected, input, output, status, legs, budgets, place)
                WHERE u.status = 0 ORDER BY u.place
            ) x
        ), booked AS (
            INSERT INTO bursar.ledger (seq, t_ns, kind, hold_id, label, request_id, attempt, directory_version, amount,
                expected, input_tokens, output_tokens, legs, asked)
            SELECT m.seq, ledger_act_2.t_ns, 4, m.id, m.label, m.request, m.attempt, m.directory, m.ceiling, m.expected,
                m.input, m.output, m.leg, m.asked FROM made m
        )
        INSERT INTO bursar.ledger_hold (id, t_ns, label, request_id, ceiling, expected, legs)
            SELECT m.id, ledger_act_2.t_ns, m.label, m.request, m.ceiling, m.expected, m.leg FROM made m;
        v_last := p_id[cardinality(p_id)];
    END IF;

    UPDATE bursar.ledger_budget g SET posted = u.posted, held = u.held, overage = u.overage, closed = u.closed,
            other_posted = u.oposted, other_held = u.oheld, other_closed = u.oclosed, next_mark = u.mark
        FROM (SELECT unnest(v_no) AS no, unnest(v_posted) AS posted, unnest(v_held) AS held, unnest(v_overage) AS overage,
            unnest(v_closed) AS closed, unnest(v_oposted) AS oposted, unnest(v_oheld) AS oheld, unnest(v_oclosed) AS oclosed,
            unnest(v_mark) AS mark) AS u
        WHERE g.no = u.no AND (g.posted, g.held, g.overage, g.closed, g.other_posted, g.other_held, g.other_closed)
            IS DISTINCT FROM (u.posted, u.held, u.overage, u.closed, u.oposted, u.oheld, u.oclosed);
    UPDATE bursar.ledger_session s SET last_hold = v_last, seen_ns = ledger_act_2.t_ns WHERE s.id = p_session;

    budgets := v_no;
    SELECT coalesce(array_agg((CASE WHEN u.closed OR u.oclosed THEN 0 ELSE least(9223372036854775807,
            greatest(0, u."limit" - u.posted - u.held - u.oposted - u.oheld)) END)::bigint), '{}') INTO room
        FROM (SELECT unnest(v_limit) AS "limit", unnest(v_posted) AS posted, unnest(v_held) AS held, unnest(v_closed) AS closed,
            unnest(v_oposted) AS oposted, unnest(v_oheld) AS oheld, unnest(v_oclosed) AS oclosed) AS u;
    state := 0;
END $$;

CREATE OR REPLACE FUNCTION bursar.ledger_act_1(
    p_session integer,
    p_any_window boolean, -- hold in the current windows even if their time is over
    p_shrink_id bigint[], p_shrink_to bigint[],
    -- ends: 6 post, 7 void; word `unreconciled` posts the present ceiling, and may be corrected later
    p_end_id bigint[], p_end_kind smallint[], p_end_cost bigint[], p_end_exact boolean[], p_end_word text[],
    p_end_input bigint[], p_end_output bigint[], p_end_cached bigint[], p_end_reasoning bigint[], p_end_more text[],
    -- holds, and the budgets of each, one hold after the other
    p_id bigint[], p_request text[], p_attempt smallint[], p_label bigint[], p_directory bigint[], p_ceiling bigint[],
    p_expected bigint[], p_input bigint[], p_output bigint[], p_legs integer[], p_budget integer[],
    OUT state smallint, -- 0 done; 1 the session is over, 2 these ids were given up: nothing was done
    OUT t_ns bigint,
    OUT status smallint[], -- of each hold: 0 held, 1 refused, 2 a window is due, 3 a budget is not known, 4 paused
    OUT told text[], -- held: shadow budgets that would refuse; refused: what its budgets had; 3: the budget; 4: who, why
    OUT budgets integer[], -- all that were touched
    OUT room bigint[], -- what is left of each
    OUT events jsonb[] -- what owners are to be told
) LANGUAGE sql AS $$
    SELECT * FROM bursar.ledger_act_2($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,
        $19, $20, $21, $22, $23, $24, $25, '{}')
$$;
