-- Leases of bots: rows, and the only ways to change them.
--
-- Agents execute functions and have no rights on tables. Each function is one statement to them, and commits by itself.
-- The database's clock is used for what people see and for what costs time at worst (how old a beat is); no lease is ever
-- taken or kept for it. A notification carries nothing that is trusted: it makes its receiver look.

-- One row per bot, never deleted: its epoch only rises. It begins with the time in milliseconds, above those of a database that was
-- lost: users' own tables may know them.
CREATE TABLE pollux.lease (
    tenant            text        NOT NULL,
    bot_id            bigint      NOT NULL,
    server            text        NOT NULL,
    token_digest      bytea       NOT NULL,
    former_digest     bytea,                       -- of the token before it was rotated, until all agents have seen the new one
    former_until      timestamptz,
    epoch             bigint      NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000)::bigint,
    renew_seq         bigint      NOT NULL DEFAULT 0,  -- rises with every change of the row that a holder's fence depends on
    incarnation       text,                        -- of the server, when somebody who had a right to last wrote the row
    ttl_ms            integer     NOT NULL DEFAULT 0,
    holder            text,                        -- one run of an agent
    locked            boolean     NOT NULL DEFAULT false,  -- the holder has its pod's file lock
    grant_beat        bigint,                      -- the holder's beat that its first fence is dated from
    session_key       bigint,                      -- of the lock by which the end of the holder's session shows
    session_fence_ms  integer,                     -- how long the holder may act after a heartbeat on it
    since             timestamptz,
    expires_at        timestamptz,
    released_at       timestamptz,
    handover_expected boolean     NOT NULL DEFAULT false,
    release           jsonb,                       -- somebody asked that the holder lets go: who, why, when
    cluster           text,                        -- from here on: the holder, or the last one there was
    namespace         text,
    name              text,
    pod               text,
    pod_uid           text,
    node              text,
    revision          text,
    PRIMARY KEY (tenant, bot_id, server)
) WITH (fillfactor = 50);  -- no index on what renewals change, and room on the page: they stay heap-only

-- One row for every agent, the holder too.
CREATE TABLE pollux.candidate (
    tenant      text        NOT NULL,
    bot_id      bigint      NOT NULL,
    server      text        NOT NULL,
    id          text        NOT NULL,
    beat        bigint      NOT NULL,
    beat_at     timestamptz NOT NULL,
    ready       boolean     NOT NULL,
    ready_since timestamptz,
    leaving     boolean     NOT NULL,
    cluster     text        NOT NULL,
    namespace   text        NOT NULL,
    name        text        NOT NULL,
    pod         text        NOT NULL,
    pod_uid     text        NOT NULL,
    node        text        NOT NULL,
    revision    text        NOT NULL,
    locked      boolean     NOT NULL,
    report      jsonb       NOT NULL DEFAULT '{}',
    PRIMARY KEY (tenant, bot_id, server, id)
) WITH (fillfactor = 50);
CREATE INDEX candidate_resource ON pollux.candidate (cluster, namespace, name);

-- Hot settings, per resource: two resources with one bot must not overwrite each other's.
CREATE TABLE pollux.setting (
    cluster    text   NOT NULL,
    namespace  text   NOT NULL,
    name       text   NOT NULL,
    generation bigint NOT NULL,
    eligible   text[],                             -- null: no restriction
    json       jsonb  NOT NULL DEFAULT '{}',
    PRIMARY KEY (cluster, namespace, name)
);

-- What was asked of a resource's agents last.
CREATE TABLE pollux.request (
    cluster   text NOT NULL,
    namespace text NOT NULL,
    name      text NOT NULL,
    id        text NOT NULL,
    to_pod    text NOT NULL,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (cluster, namespace, name)
);

-- What happened, by the epoch that began with it.
CREATE TABLE pollux.handover (
    tenant        text        NOT NULL,
    bot_id        bigint      NOT NULL,
    server        text        NOT NULL,
    epoch         bigint      NOT NULL,
    at            timestamptz NOT NULL,
    reason        text        NOT NULL,
    evidence      text        NOT NULL,
    from_party    jsonb,
    to_party      jsonb,
    drain_ms      bigint,
    drain_outcome text,
    unacknowledged integer,                        -- updates that the old leader's bot had and had not acknowledged when the drain ended
    owed          integer,                         -- updates that it was probably still working on then
    forced        jsonb,                           -- who asked for it, why, when
    -- The parts of the gap; how they are measured is said at pollux.gap.
    old_us        bigint,                          -- the old leader's last poll ended → it gave the lease away
    idle_us       bigint,                          -- released → acquired
    new_us        bigint,                          -- the new leader had the lease → its first poll
    PRIMARY KEY (tenant, bot_id, server, epoch)
);

-- Which tenant speaks for a namespace; for all others it is the tenant without a name.
CREATE TABLE pollux.scope (
    cluster   text NOT NULL,
    namespace text NOT NULL,
    tenant    text NOT NULL,
    PRIMARY KEY (cluster, namespace)
);

-- Which tenant a login belongs to; all others belong to the tenant without a name.
CREATE TABLE pollux.login (
    name   name PRIMARY KEY,
    tenant text NOT NULL
);

-- The incarnation of the server that last made somebody write here, and since when. A row for each tenant: one that all wrote
-- would be one that anybody could lock.
CREATE TABLE pollux.server (
    tenant      text        PRIMARY KEY,
    incarnation text        NOT NULL,
    since       timestamptz NOT NULL
);

-- The protocol that these functions speak.
CREATE FUNCTION pollux.protocol() RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 1';

-- === inner functions: not for agents ===
--
-- They run within those below, which set the search path; a setting of their own would have them planned at each call. What reads
-- or writes a table is PL/pgSQL, whose plans a session keeps: of a function in SQL it keeps none, unless the function is inlined
-- (a mere expression, or a set in a FROM).

-- The server since its last start. A standby that was promoted, a restored snapshot and a server that crashed all have another
-- one than the server whose answers they may have forgotten. Nothing but this function may be missing from a hosted PostgreSQL.
CREATE FUNCTION pollux.incarnation() RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint::text
$$;

INSERT INTO pollux.server VALUES ('', pollux.incarnation(), '-infinity');

-- Notes that this incarnation is in use; whoever settles a row does.
CREATE FUNCTION pollux.enter_incarnation(t text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE pollux.server SET incarnation = pollux.incarnation(), since = clock_timestamp()
     WHERE tenant = t AND incarnation <> pollux.incarnation();
END $$;

-- Whose leases the caller sees. Not current_user: that is the owner in here, and SET ROLE changes it elsewhere.
CREATE FUNCTION pollux.tenant() RETURNS text
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN coalesce((SELECT l.tenant FROM pollux.login l WHERE l.name = session_user), '');
END $$;

-- Nothing that a lease rests on may be lost because the server was told not to wait for its disk.
CREATE FUNCTION pollux.durably() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
END $$;

-- Nobody acts on a bot whose token he does not know.
CREATE FUNCTION pollux.authorise(l pollux.lease, digest bytea) RETURNS void
LANGUAGE plpgsql STABLE AS $$
BEGIN
    -- A token that is not said is another one.
    IF l.bot_id IS NOT NULL AND (digest = l.token_digest OR digest = l.former_digest AND l.former_until > clock_timestamp()) IS NOT TRUE THEN
        RAISE EXCEPTION 'the lease of bot % is kept with another token', l.bot_id USING ERRCODE = 'PX001';
    END IF;
END $$;

-- The caller's lease of a bot, if he knows its token. Whose he is is asked for within the query: a handover waits for every call.
CREATE FUNCTION pollux.lease_of(b bigint, s text, digest bytea) RETURNS pollux.lease
LANGUAGE plpgsql STABLE AS $$
DECLARE
    l pollux.lease;
BEGIN
    SELECT * INTO l FROM pollux.lease x
     WHERE x.tenant = coalesce((SELECT g.tenant FROM pollux.login g WHERE g.name = session_user), '')
       AND x.bot_id = b AND x.server = s;
    PERFORM pollux.authorise(l, digest);
    RETURN l;
END $$;

-- The same, locked until the commit.
CREATE FUNCTION pollux.lock_lease(b bigint, s text, digest bytea) RETURNS pollux.lease
LANGUAGE plpgsql AS $$
DECLARE
    l pollux.lease;
BEGIN
    SELECT * INTO l FROM pollux.lease x
     WHERE x.tenant = coalesce((SELECT g.tenant FROM pollux.login g WHERE g.name = session_user), '')
       AND x.bot_id = b AND x.server = s
       FOR NO KEY UPDATE OF x;
    PERFORM pollux.authorise(l, digest);
    RETURN l;
END $$;

CREATE FUNCTION pollux.wake_bot(b bigint) RETURNS void
LANGUAGE sql AS $$
    SELECT pg_notify('pollux_' || b, '')
$$;

CREATE FUNCTION pollux.wake_observers(t text, b bigint, s text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('pollux', jsonb_build_array(r.cluster, r.namespace, r.name)::text)
       FROM (SELECT DISTINCT cluster, namespace, name FROM pollux.candidate WHERE tenant = t AND bot_id = b AND server = s) r;
END $$;

CREATE FUNCTION pollux.wake_resource(c text, ns text, n text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pollux.wake_bot(r.bot_id)
       FROM (SELECT DISTINCT bot_id FROM pollux.candidate WHERE cluster = c AND namespace = ns AND name = n) r;
    PERFORM pg_notify('pollux', jsonb_build_array(c, ns, n)::text);
END $$;

-- As stable as what it calls, and no more: else it is not inlined, and planned at each call.
CREATE FUNCTION pollux.party(c pollux.candidate) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object('id', c.id, 'cluster', c.cluster, 'namespace', c.namespace, 'name', c.name, 'pod', c.pod,
                              'pod_uid', c.pod_uid, 'node', c.node, 'revision', c.revision)
$$;

-- The same of a lease's holder, which may have no candidate's row any more.
CREATE FUNCTION pollux.holder(l pollux.lease) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object('id', l.holder, 'cluster', l.cluster, 'namespace', l.namespace, 'name', l.name, 'pod', l.pod,
                              'pod_uid', coalesce(l.pod_uid, ''), 'node', l.node, 'revision', l.revision)
$$;

-- Whether a candidate's revision may lead.
CREATE FUNCTION pollux.eligible(c pollux.candidate) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN NOT EXISTS (
        SELECT FROM pollux.setting t
         WHERE t.cluster = c.cluster AND t.namespace = c.namespace AND t.name = c.name
           AND t.eligible IS NOT NULL AND c.revision <> ALL (t.eligible));
END $$;

-- Whether a candidate's last beat is younger than this. The clock may have been set back: then it is of the future.
CREATE FUNCTION pollux.beat_within(c pollux.candidate, youth interval) RETURNS boolean
LANGUAGE sql VOLATILE AS $$
    SELECT c.beat_at BETWEEN clock_timestamp() - youth AND clock_timestamp() + youth
$$;

-- Who should lead after `me`: one of its own resource, of the preferred revision, on another node, the longest ready one.
CREATE FUNCTION pollux.successor(me pollux.candidate, only_pod text, youth interval) RETURNS SETOF pollux.candidate
LANGUAGE sql STABLE ROWS 1 AS $$
    SELECT c.*
      FROM pollux.candidate c
      LEFT JOIN pollux.setting t ON t.cluster = c.cluster AND t.namespace = c.namespace AND t.name = c.name
     WHERE c.tenant = me.tenant AND c.bot_id = me.bot_id AND c.server = me.server AND c.id <> me.id
       AND c.ready AND NOT c.leaving AND pollux.beat_within(c, youth)
       AND (t.eligible IS NULL OR c.revision = ANY (t.eligible))
       AND (only_pod IS NULL OR c.pod = only_pod)
     ORDER BY (c.cluster, c.namespace, c.name) = (me.cluster, me.namespace, me.name) DESC,
              coalesce(array_position(t.eligible, c.revision), 0),
              c.node IS DISTINCT FROM me.node DESC,
              c.ready_since, c.id
     LIMIT 1
$$;

-- What an agent is told of the lease, and whether its wish came true.
CREATE FUNCTION pollux.answer(done boolean, l pollux.lease) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF l.bot_id IS NULL THEN
        RETURN jsonb_build_object('done', done);
    END IF;
    RETURN jsonb_build_object('done', done, 'incarnation', pollux.incarnation(), 'lease', jsonb_build_object(
        'epoch', l.epoch, 'renew_seq', l.renew_seq, 'settled', l.incarnation IS NOT DISTINCT FROM pollux.incarnation(),
        'ttl_ms', l.ttl_ms, 'holder', l.holder, 'locked', l.locked,
        'session', CASE WHEN l.session_key IS NOT NULL
                        THEN jsonb_build_object('key', l.session_key, 'fence_ms', l.session_fence_ms) END,
        'grant_beat', l.grant_beat, 'handover_expected', l.handover_expected, 'release', l.release IS NOT NULL,
        'cluster', coalesce(l.cluster, ''), 'namespace', coalesce(l.namespace, ''), 'name', coalesce(l.name, ''),
        'pod', coalesce(l.pod, ''), 'pod_uid', coalesce(l.pod_uid, ''), 'node', coalesce(l.node, ''),
        'revision', coalesce(l.revision, '')));
END $$;

-- What it is told of everything else, if it is known.
CREATE FUNCTION pollux.around(t text, b bigint, s text, me text) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
DECLARE
    c pollux.candidate;
BEGIN
    SELECT * INTO c FROM pollux.candidate WHERE tenant = t AND bot_id = b AND server = s AND id = me;
    IF NOT FOUND THEN
        RETURN jsonb_build_object('registered', false);
    END IF;
    RETURN jsonb_build_object(
        'registered', true,
        'setting', (SELECT jsonb_build_object('generation', o.generation, 'eligible', o.eligible, 'json', o.json)
                      FROM pollux.setting o
                     WHERE o.cluster = c.cluster AND o.namespace = c.namespace AND o.name = c.name),
        'request', (SELECT jsonb_build_object('id', r.id, 'toPod', r.to_pod)
                      FROM pollux.request r
                     WHERE r.cluster = c.cluster AND r.namespace = c.namespace AND r.name = c.name),
        -- The best one that is surely alive; else the best one that probably is, which must not hide it.
        'heir', coalesce(
            (SELECT jsonb_build_object('pod', h.pod, 'fresh', true) FROM pollux.successor(c, NULL, interval '300 ms') h),
            (SELECT jsonb_build_object('pod', h.pod, 'fresh', false) FROM pollux.successor(c, NULL, interval '3 s') h)));
END $$;

CREATE FUNCTION pollux.answer(done boolean, t text, b bigint, s text, me text) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
DECLARE
    l pollux.lease;
BEGIN
    SELECT * INTO l FROM pollux.lease WHERE tenant = t AND bot_id = b AND server = s;
    RETURN pollux.answer(done, l) || jsonb_build_object('around', pollux.around(t, b, s, me));
END $$;

-- Writes an agent's own row. Whether anything but the time changed is what observers are woken for.
CREATE FUNCTION pollux.note(t text, b bigint, s text, me text, number bigint, now_ready boolean, now_leaving boolean, who jsonb, new_report jsonb)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    old    pollux.candidate;
    now_at timestamptz := clock_timestamp();
BEGIN
    IF octet_length(new_report::text) > 16384 THEN
        RAISE EXCEPTION 'the report is longer than 16 KiB' USING ERRCODE = 'PX002';
    END IF;
    SELECT * INTO old FROM pollux.candidate WHERE tenant = t AND bot_id = b AND server = s AND id = me;
    IF old.id IS NULL AND t <> coalesce((SELECT p.tenant FROM pollux.scope p
                                          WHERE p.cluster = who ->> 'cluster' AND p.namespace = who ->> 'namespace'), '')
    THEN
        RAISE EXCEPTION 'this login may not speak for the namespace % of the cluster %', who ->> 'namespace', who ->> 'cluster'
            USING ERRCODE = 'PX003';
    END IF;
    INSERT INTO pollux.candidate AS c
        VALUES (t, b, s, me, number, now_at, now_ready, CASE WHEN now_ready THEN now_at END, now_leaving,
                left(who ->> 'cluster', 256), left(who ->> 'namespace', 256), left(who ->> 'name', 256), left(who ->> 'pod', 256),
                left(who ->> 'pod_uid', 256), left(who ->> 'node', 256), left(who ->> 'revision', 256),
                (who ->> 'locked')::boolean, coalesce(new_report, '{}'))
        ON CONFLICT (tenant, bot_id, server, id) DO UPDATE
        SET beat = excluded.beat, beat_at = now_at, ready = now_ready, leaving = now_leaving,
            ready_since = CASE WHEN NOT now_ready THEN NULL WHEN c.ready THEN c.ready_since ELSE now_at END,
            locked = excluded.locked, report = coalesce(new_report, c.report)
        WHERE c.beat < excluded.beat;  -- a late statement of a connection that was given up
    IF old.id IS NULL THEN
        -- Runs that ended without signing off. Agents come with every rollout, so this bounds the table.
        DELETE FROM pollux.candidate WHERE tenant = t AND bot_id = b AND server = s AND beat_at < now_at - interval '10 min';
    END IF;
    IF old.id IS NULL OR old.ready <> now_ready OR old.leaving <> now_leaving OR old.report <> new_report THEN
        PERFORM pollux.wake_observers(t, b, s);
    END IF;
END $$;

-- Begins an epoch. `taker` is null if nobody leads in it yet.
CREATE FUNCTION pollux.log(l pollux.lease, new_epoch bigint, why text, how text, giver jsonb, taker jsonb, drain jsonb)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    now_at timestamptz := clock_timestamp();
BEGIN
    INSERT INTO pollux.handover AS h
           (tenant, bot_id, server, epoch, at, reason, evidence, from_party, to_party, drain_ms, drain_outcome, unacknowledged, owed, forced)
        VALUES (l.tenant, l.bot_id, l.server, new_epoch, now_at,
                CASE WHEN l.release IS NULL THEN left(why, 64) ELSE 'ForcedRelease' END,
                how, giver, taker, (drain ->> 'ms')::bigint, left(drain ->> 'outcome', 64), (drain ->> 'unacknowledged')::integer,
                (drain ->> 'owed')::integer, l.release)
        ON CONFLICT (tenant, bot_id, server, epoch) DO UPDATE
        SET at = excluded.at, evidence = excluded.evidence, to_party = excluded.to_party,
            reason = CASE WHEN h.reason = 'PodDeleted' AND h.from_party ->> 'revision' <> excluded.to_party ->> 'revision'
                          THEN 'Rollout' ELSE h.reason END,
            idle_us = extract(epoch FROM now_at - l.released_at) * 1000000;
END $$;

-- The epoch after this one; above `seen`, the highest that the caller ever saw. A row of an earlier incarnation may have forgotten
-- later ones: then it goes on from the time, in milliseconds. So two rollbacks to the same row do not begin the same epoch twice,
-- unless the clocks of the two servers are further apart than the time in between. Stays below 2^53, which JavaScript can count to.
CREATE FUNCTION pollux.next_epoch(l pollux.lease, seen bigint) RETURNS bigint
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF l.incarnation = pollux.incarnation() AND seen <= l.epoch THEN
        RETURN l.epoch + 1;
    END IF;
    RETURN greatest(l.epoch + 1, seen + 1, (extract(epoch FROM clock_timestamp()) * 1000)::bigint);
END $$;

-- Makes `taker` the holder of a new epoch. Who was handed the lease has observers woken by its first renewal: nobody waits for it.
CREATE FUNCTION pollux.grant_to(l pollux.lease, new_epoch bigint, taker pollux.candidate, ttl integer, first_beat bigint)
RETURNS pollux.lease LANGUAGE plpgsql AS $$
DECLARE
    granted pollux.lease;
BEGIN
    IF l.incarnation IS DISTINCT FROM pollux.incarnation() THEN
        PERFORM pollux.enter_incarnation(l.tenant);
    END IF;
    UPDATE pollux.lease
       SET epoch = new_epoch, incarnation = pollux.incarnation(), renew_seq = l.renew_seq + 1, ttl_ms = ttl, holder = taker.id, locked = taker.locked,
           grant_beat = first_beat, session_key = NULL, session_fence_ms = NULL, since = clock_timestamp(), expires_at = clock_timestamp() + ttl * interval '1 ms',
           released_at = NULL, handover_expected = false, release = NULL,
           cluster = taker.cluster, namespace = taker.namespace, name = taker.name, pod = taker.pod, pod_uid = taker.pod_uid,
           node = taker.node, revision = taker.revision
     WHERE tenant = l.tenant AND bot_id = l.bot_id AND server = l.server
    RETURNING * INTO granted;
    PERFORM pollux.wake_bot(l.bot_id);
    IF first_beat IS NULL THEN
        PERFORM pollux.wake_observers(l.tenant, l.bot_id, l.server);
    END IF;
    RETURN granted;
END $$;

-- Frees the lease. The epoch rises when somebody takes it; the row of the log that waits for it begins here. The row stays as
-- unsettled as it was: what was forgotten may have begun a later epoch than this one.
CREATE FUNCTION pollux.let_go(l pollux.lease, why text, drain jsonb) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE pollux.lease
       SET holder = NULL, locked = false, grant_beat = NULL, session_key = NULL, session_fence_ms = NULL, renew_seq = l.renew_seq + 1, released_at = clock_timestamp(),
           expires_at = NULL, since = NULL, handover_expected = false, release = NULL
     WHERE tenant = l.tenant AND bot_id = l.bot_id AND server = l.server;
    PERFORM pollux.log(l, l.epoch + 1, why, 'release', pollux.holder(l), NULL, drain);
    PERFORM pollux.wake_bot(l.bot_id);
    PERFORM pollux.wake_observers(l.tenant, l.bot_id, l.server);
END $$;

-- Whether a candidate may become the holder.
CREATE FUNCTION pollux.may_lead(c pollux.candidate) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT c.id IS NOT NULL AND c.ready AND NOT c.leaving AND pollux.eligible(c)
$$;

-- === what agents execute ===

-- A look, without writing anything. Who has just been given the lease needs to know no more, and at once: the rest comes with
-- its first renewal. (Unless it is to hand on.)
CREATE FUNCTION pollux.look(b bigint, s text, digest bytea, me text) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    l pollux.lease := pollux.lease_of(b, s, digest);
BEGIN
    IF l.holder = me AND l.grant_beat IS NOT NULL AND NOT l.handover_expected THEN
        RETURN pollux.answer(true, l);
    END IF;
    RETURN pollux.answer(true, l) || jsonb_build_object('around', pollux.around(l.tenant, b, s, me));
END $$;

-- A candidate's sign of life, and a look.
CREATE FUNCTION pollux.beat(b bigint, s text, digest bytea, me text, number bigint, now_ready boolean, now_leaving boolean,
                            who jsonb, new_report jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t text := pollux.tenant();
BEGIN
    -- A beat that a crash of the server loses is repeated; nothing rests on it being durable.
    PERFORM set_config('synchronous_commit', 'off', true);
    IF NOT EXISTS (SELECT FROM pollux.lease WHERE tenant = t AND bot_id = b AND server = s) THEN
        -- A bot that is new, or one that the server has forgotten: that can only be as long as a lease lives after it started.
        PERFORM pollux.enter_incarnation(t);
        INSERT INTO pollux.lease (tenant, bot_id, server, token_digest, incarnation)
            VALUES (t, b, s, digest, (SELECT v.incarnation FROM pollux.server v WHERE v.tenant = t AND v.since < clock_timestamp() - interval '75 s'))
            ON CONFLICT DO NOTHING;
    END IF;
    IF EXISTS (SELECT FROM pollux.lease WHERE tenant = t AND bot_id = b AND server = s AND token_digest <> digest
                  AND (holder IS NULL OR expires_at < clock_timestamp() - interval '30 s'))
    THEN
        -- The token was rotated while the bot did not run: nobody is left who could prove that he knew the old one. Of several
        -- who come now one is the first; the others look when he has registered.
        PERFORM FROM pollux.lease WHERE tenant = t AND bot_id = b AND server = s FOR NO KEY UPDATE;
        UPDATE pollux.lease l SET token_digest = digest
         WHERE l.tenant = t AND l.bot_id = b AND l.server = s
           AND (l.holder IS NULL OR l.expires_at < clock_timestamp() - interval '30 s')
           AND NOT EXISTS (SELECT FROM pollux.candidate c
                            WHERE c.tenant = t AND c.bot_id = b AND c.server = s AND c.beat_at > clock_timestamp() - interval '30 s');
    END IF;
    PERFORM pollux.lease_of(b, s, digest);
    PERFORM pollux.note(t, b, s, me, number, now_ready, now_leaving, who, new_report);
    RETURN pollux.answer(true, t, b, s, me);
END $$;

-- The holder goes on for `ttl`.
CREATE FUNCTION pollux.renew(b bigint, s text, digest bytea, me text, known text, e bigint, seq bigint, ttl integer,
                             key bigint, fence integer, number bigint,
                             now_ready boolean, now_leaving boolean, who jsonb, new_report jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t       text;
    l       pollux.lease;
    renewed boolean;
BEGIN
    PERFORM pollux.durably();
    l := pollux.lease_of(b, s, digest);
    -- Without a row it is asked for: whoever may not speak for the namespace is told so below.
    t := coalesce(l.tenant, pollux.tenant());
    UPDATE pollux.lease
       SET renew_seq = renew_seq + 1, incarnation = known, ttl_ms = ttl, grant_beat = NULL,
           session_key = key, session_fence_ms = fence,
           expires_at = clock_timestamp() + ttl * interval '1 ms'
     WHERE tenant = t AND bot_id = b AND server = s AND holder = me AND epoch = e AND renew_seq = seq
       AND known = pollux.incarnation() AND release IS NULL;
    renewed := FOUND;
    IF renewed AND l.incarnation IS DISTINCT FROM known THEN
        PERFORM pollux.enter_incarnation(t);
    END IF;
    IF renewed AND l.grant_beat IS NOT NULL THEN
        PERFORM pollux.wake_observers(t, b, s);
    END IF;
    PERFORM pollux.note(t, b, s, me, number, now_ready, now_leaving, who, new_report);
    RETURN pollux.answer(renewed, t, b, s, me);
END $$;

-- The holder of many leases goes on for `ttl` with all of them: one statement, one commit. Returned are those that were renewed,
-- with their new number; why another one was not, a renewal of its own says. So does the first renewal in an epoch and in an
-- incarnation of the server, which means more than going on. `key` and `fence` are of one session for all of them.
CREATE FUNCTION pollux.renew_all(bots bigint[], s text, digests bytea[], me text, known text, epochs bigint[], seqs bigint[],
                                 ttl integer, key bigint, fence integer, numbers bigint[])
RETURNS TABLE (bot bigint, seq bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t      text := pollux.tenant();
    now_at timestamptz := clock_timestamp();
BEGIN
    PERFORM pollux.durably();
    RETURN QUERY
    WITH asked AS (
        SELECT * FROM unnest(bots, digests, epochs, seqs, numbers) AS a (bot_id, digest, epoch, renew_seq, beat)
    ), renewed AS (
        UPDATE pollux.lease l
           SET renew_seq = l.renew_seq + 1, ttl_ms = ttl, session_key = key, session_fence_ms = fence,
               expires_at = now_at + ttl * interval '1 ms'
          FROM asked a
         WHERE l.tenant = t AND l.bot_id = a.bot_id AND l.server = s AND l.holder = me
           AND l.epoch = a.epoch AND l.renew_seq = a.renew_seq AND l.token_digest = a.digest
           AND l.incarnation = known AND known = pollux.incarnation() AND l.grant_beat IS NULL AND l.release IS NULL
        RETURNING l.bot_id, l.renew_seq, a.beat
    ), beaten AS (
        UPDATE pollux.candidate c SET beat = r.beat, beat_at = now_at
          FROM renewed r
         WHERE c.tenant = t AND c.bot_id = r.bot_id AND c.server = s AND c.id = me AND c.beat < r.beat
    )
    SELECT r.bot_id, r.renew_seq FROM renewed r;
END $$;

-- A sign of life of the candidate for many leases, and a look at each: its epoch, number and holder. Bots whose token is another
-- one, and agents that are not registered, are left out.
CREATE FUNCTION pollux.beat_all(bots bigint[], s text, digests bytea[], me text, numbers bigint[])
RETURNS TABLE (bot bigint, epoch bigint, seq bigint, holder text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    t      text := pollux.tenant();
    now_at timestamptz := clock_timestamp();
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    RETURN QUERY
    WITH asked AS (
        SELECT * FROM unnest(bots, digests, numbers) AS a (bot_id, digest, beat)
    ), beaten AS (
        UPDATE pollux.candidate c SET beat = a.beat, beat_at = now_at
          FROM asked a
          JOIN pollux.lease l ON l.tenant = t AND l.bot_id = a.bot_id AND l.server = s AND l.token_digest = a.digest
         WHERE c.tenant = t AND c.bot_id = a.bot_id AND c.server = s AND c.id = me AND c.beat < a.beat
        RETURNING l.bot_id, l.epoch, l.renew_seq, l.holder
    )
    SELECT b.bot_id, b.epoch, b.renew_seq, b.holder FROM beaten b;
END $$;

-- Takes a lease that nobody holds.
CREATE FUNCTION pollux.acquire(b bigint, s text, digest bytea, me text, known text, seen bigint, e bigint, ttl integer) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t    text;
    next bigint;
    l    pollux.lease;
    c    pollux.candidate;
BEGIN
    PERFORM pollux.durably();
    l := pollux.lock_lease(b, s, digest);
    t := l.tenant;
    SELECT * INTO c FROM pollux.candidate WHERE tenant = t AND bot_id = b AND server = s AND id = me;
    IF (l.holder IS NULL AND l.epoch = e AND known = pollux.incarnation() AND pollux.may_lead(c)) IS NOT TRUE THEN
        RETURN pollux.answer(false, t, b, s, me);
    END IF;
    next := pollux.next_epoch(l, seen);
    PERFORM pollux.log(l, next, CASE WHEN l.pod IS NULL THEN 'Initial' ELSE 'LeaseExpired' END, 'free', NULL,
                       pollux.party(c), NULL);
    PERFORM pollux.grant_to(l, next, c, ttl, NULL);
    RETURN pollux.answer(true, t, b, s, me);
END $$;

-- Takes the lease of a holder that is gone. Evidence `ttl` is the caller's own observation of (e, seq); `session` is that it was
-- granted the lock under the key that this very state of the row names; `pod` is the file lock
-- of its pod, or that it is the holder itself and wants a new epoch because of an order that may still be under way. With
-- `vacate` the lease is only freed.
CREATE FUNCTION pollux.takeover(b bigint, s text, digest bytea, me text, known text, seen bigint, e bigint, seq bigint,
                                evidence text, ttl integer, vacate boolean) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t    text;
    next bigint;
    l    pollux.lease;
    c    pollux.candidate;
    why  text := CASE evidence WHEN 'pod' THEN 'AgentRestarted' ELSE 'LeaseExpired' END;
BEGIN
    PERFORM pollux.durably();
    l := pollux.lock_lease(b, s, digest);
    t := l.tenant;
    SELECT * INTO c FROM pollux.candidate WHERE tenant = t AND bot_id = b AND server = s AND id = me;
    IF (l.holder IS NOT NULL AND l.epoch = e AND l.renew_seq = seq AND c.id IS NOT NULL
        AND known = pollux.incarnation()
        AND (vacate OR pollux.may_lead(c))
        AND (NOT vacate AND (evidence = 'ttl' OR evidence = 'session' AND l.session_key IS NOT NULL)
             OR evidence = 'pod' AND (l.holder = me OR l.locked AND c.locked AND l.pod_uid = c.pod_uid))) IS NOT TRUE
    THEN
        RETURN pollux.answer(false, t, b, s, me);
    END IF;
    IF vacate THEN
        PERFORM pollux.let_go(l, why, NULL);
        RETURN pollux.answer(true, t, b, s, me);
    END IF;
    next := pollux.next_epoch(l, seen);
    PERFORM pollux.log(l, next, why, evidence, pollux.holder(l), pollux.party(c), NULL);
    PERFORM pollux.grant_to(l, next, c, ttl, NULL);
    RETURN pollux.answer(true, t, b, s, me);
END $$;

-- The holder begins to drain: candidates should beat often. Or it has thought better of it.
CREATE FUNCTION pollux.expect_handover(b bigint, s text, digest bytea, me text, e bigint, expected boolean) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t text;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    t := (pollux.lease_of(b, s, digest)).tenant;
    UPDATE pollux.lease SET handover_expected = expected
     WHERE tenant = t AND bot_id = b AND server = s AND holder = me AND epoch = e AND handover_expected <> expected;
    IF FOUND THEN
        PERFORM pollux.wake_bot(b);
        PERFORM pollux.wake_observers(t, b, s);
    END IF;
    RETURN pollux.answer(true, t, b, s, me);
END $$;

-- The holder gives the lease to the best successor whose last beat is younger than 300 ms. Is there none, then `otherwise`:
-- `release`; or `wait`: released only if no ready successor is in sight at all, else all of them are asked for a beat (also if
-- one of a better revision is in sight than the one that is given: the latter may be the next to go); or `keep`: nothing happens.
CREATE FUNCTION pollux.handover(b bigint, s text, digest bytea, me text, known text, seen bigint, e bigint, ttl integer,
                                only_pod text, otherwise text, why text, drain jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t    text;
    next bigint;
    l    pollux.lease;
    c    pollux.candidate;
    to_c pollux.candidate;
    best pollux.candidate;
BEGIN
    PERFORM pollux.durably();
    l := pollux.lock_lease(b, s, digest);
    t := l.tenant;
    SELECT * INTO c FROM pollux.candidate WHERE tenant = t AND bot_id = b AND server = s AND id = me;
    IF (l.holder = me AND l.epoch = e AND c.id IS NOT NULL AND known = pollux.incarnation()) IS NOT TRUE THEN
        RETURN pollux.answer(false, t, b, s, me);
    END IF;
    SELECT * INTO best FROM pollux.successor(c, only_pod, interval '3 s');
    IF pollux.beat_within(best, interval '300 ms') THEN
        to_c := best;  -- mostly so, and then it is not looked for twice
    ELSIF best.id IS NOT NULL THEN
        SELECT * INTO to_c FROM pollux.successor(c, only_pod, interval '300 ms');
    END IF;
    IF to_c.id IS NOT NULL AND (otherwise <> 'wait' OR best.revision = to_c.revision) THEN
        next := pollux.next_epoch(l, seen);
        PERFORM pollux.log(l, next,
            CASE WHEN why = 'PodDeleted' AND to_c.revision <> c.revision THEN 'Rollout' ELSE why END,
            'handover', pollux.party(c), pollux.party(to_c), drain);
        RETURN pollux.answer(true, pollux.grant_to(l, next, to_c, ttl, to_c.beat));
    END IF;
    IF otherwise = 'release' OR otherwise = 'wait' AND best.id IS NULL THEN
        PERFORM pollux.let_go(l, why, drain);
        RETURN pollux.answer(true, t, b, s, me);
    END IF;
    IF otherwise = 'wait' AND NOT l.handover_expected THEN
        PERFORM set_config('synchronous_commit', 'off', true);
        UPDATE pollux.lease SET handover_expected = true WHERE tenant = t AND bot_id = b AND server = s;
        PERFORM pollux.wake_bot(b);
    END IF;
    RETURN pollux.answer(false, t, b, s, me);
END $$;

-- An agent signs off.
CREATE FUNCTION pollux.depart(b bigint, s text, digest bytea, me text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t text;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    t := (pollux.lease_of(b, s, digest)).tenant;
    PERFORM pollux.wake_observers(t, b, s);
    DELETE FROM pollux.candidate WHERE tenant = t AND bot_id = b AND server = s AND id = me;
    RETURN pollux.answer(true, t, b, s, me);
END $$;

-- One end of the gap between two leaders: the old one's last poll ended, or the new one's first one was sent, `ago`
-- microseconds ago. That is a duration on the agent's clock; the time since the lease changed hands is one on the database's
-- clock; their difference needs no two clocks to agree. It is wrong by the time that this statement took to get here, which may
-- be more than the whole: a part is never less than nothing.
CREATE FUNCTION pollux.gap(b bigint, s text, digest bytea, me text, e bigint, ago bigint) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t    text;
    since timestamptz := clock_timestamp();
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    t := (pollux.lease_of(b, s, digest)).tenant;
    UPDATE pollux.handover
       SET old_us = CASE WHEN from_party ->> 'id' = me
                         THEN greatest(0, ago - extract(epoch FROM since - at) * 1000000 - coalesce(idle_us, 0)) ELSE old_us END,
           new_us = CASE WHEN to_party ->> 'id' = me
                         THEN greatest(0, extract(epoch FROM since - at) * 1000000 - ago) ELSE new_us END
     WHERE tenant = t AND bot_id = b AND server = s AND epoch = e AND me IN (from_party ->> 'id', to_party ->> 'id');
    IF FOUND THEN
        PERFORM pollux.wake_observers(t, b, s);
    END IF;
    -- This comes with each handover too, and nobody waits for it.
    DELETE FROM pollux.handover d
     WHERE d.tenant = t AND d.bot_id = b AND d.server = s AND d.epoch < e
       AND (d.at < since - interval '30 days'
            OR d.epoch <= (SELECT o.epoch FROM pollux.handover o
                            WHERE o.tenant = t AND o.bot_id = b AND o.server = s
                            ORDER BY o.epoch DESC OFFSET 200 LIMIT 1));
    RETURN pollux.answer(true, t, b, s, me);
END $$;

-- The token was rotated: the bearer of the old one says what the new one's digest is. The old one stays good for the time
-- that other agents may take to see the new one.
CREATE FUNCTION pollux.rotate(b bigint, s text, digest bytea, me text, new_digest bytea) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t text;
BEGIN
    t := (pollux.lease_of(b, s, digest)).tenant;
    UPDATE pollux.lease
       SET former_digest = token_digest, former_until = clock_timestamp() + interval '10 min', token_digest = new_digest
     WHERE tenant = t AND bot_id = b AND server = s AND token_digest = digest AND token_digest <> new_digest;
    RETURN pollux.answer(true, t, b, s, me);
END $$;

-- === what the controller executes ===

CREATE FUNCTION pollux.put_setting(c text, ns text, n text, gen bigint, revisions text[], other jsonb) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO pollux.setting AS t VALUES (c, ns, n, gen, revisions, other)
        ON CONFLICT (cluster, namespace, name) DO UPDATE SET generation = gen, eligible = revisions, json = other
        WHERE (t.generation, t.eligible, t.json) IS DISTINCT FROM (gen, revisions, other);
    IF FOUND THEN
        PERFORM pollux.wake_resource(c, ns, n);
        RETURN true;
    END IF;
    RETURN false;
END $$;

CREATE FUNCTION pollux.put_request(c text, ns text, n text, request_id text, pod text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO pollux.request AS t VALUES (c, ns, n, request_id, pod)
        ON CONFLICT (cluster, namespace, name) DO UPDATE SET id = request_id, to_pod = pod, at = clock_timestamp()
        WHERE (t.id, t.to_pod) IS DISTINCT FROM (request_id, pod);
    IF FOUND THEN
        PERFORM pollux.wake_resource(c, ns, n);
        RETURN true;
    END IF;
    RETURN false;
END $$;

-- The holder of a resource must let go: it is refused every renewal from now on, gives the lease away when it hears of it, and
-- loses it at its fence if it does not hear. Says whether there was a holder that nobody had asked yet.
CREATE FUNCTION pollux.force_release(c text, ns text, n text, who text, why text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- The one that holds it now: not its successor, if this has to wait for a handover.
    UPDATE pollux.lease l
       SET release = jsonb_build_object('who', left(who, 256), 'why', left(why, 1024), 'at', clock_timestamp())
      FROM (SELECT * FROM pollux.lease
             WHERE cluster = c AND namespace = ns AND name = n AND holder IS NOT NULL AND release IS NULL) h
     WHERE (l.tenant, l.bot_id, l.server, l.epoch) = (h.tenant, h.bot_id, h.server, h.epoch) AND l.release IS NULL;
    IF FOUND THEN
        PERFORM pollux.wake_resource(c, ns, n);
        RETURN true;
    END IF;
    RETURN false;
END $$;

CREATE FUNCTION pollux.forget(c text, ns text, n text) RETURNS boolean
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    WITH s AS (DELETE FROM pollux.setting WHERE cluster = c AND namespace = ns AND name = n RETURNING 1),
         r AS (DELETE FROM pollux.request WHERE cluster = c AND namespace = ns AND name = n RETURNING 1)
    SELECT EXISTS (SELECT FROM s) OR EXISTS (SELECT FROM r)
$$;

-- Makes a login and a namespace tenant t's; with '' they are nobody's again. The namespace's leases go with it as they are: a
-- leader leads on. Who had registered for the namespace as another tenant has to register anew, and is refused. A bot that is
-- shared with a namespace that stays behind cannot be moved: there it would be led, too.
CREATE FUNCTION pollux.put_tenant(who name, c text, ns text, t text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    was text := coalesce((SELECT p.tenant FROM pollux.scope p WHERE p.cluster = c AND p.namespace = ns), '');
    l   pollux.lease;
    o   pollux.lease;
    one pollux.candidate;
BEGIN
    IF was = t AND t = coalesce((SELECT g.tenant FROM pollux.login g WHERE g.name = who), '') THEN
        RETURN false;
    END IF;
    -- The tenant may not take the server for an older one than it is.
    INSERT INTO pollux.server SELECT t, incarnation, since FROM pollux.server WHERE tenant = was ON CONFLICT DO NOTHING;
    DELETE FROM pollux.login WHERE name = who;
    DELETE FROM pollux.scope WHERE cluster = c AND namespace = ns;
    IF t <> '' THEN
        INSERT INTO pollux.login VALUES (who, t);
        INSERT INTO pollux.scope VALUES (c, ns, t);
    END IF;
    IF was = t THEN
        RETURN true;
    END IF;
    -- Nobody takes one of these leases meanwhile; whoever waits for the row finds it, or his own as a candidate, gone from there.
    PERFORM FROM pollux.lease x
      WHERE x.tenant = was AND ((x.cluster, x.namespace) = (c, ns)
            OR EXISTS (SELECT FROM pollux.candidate k
                        WHERE k.tenant = was AND k.bot_id = x.bot_id AND k.server = x.server AND (k.cluster, k.namespace) = (c, ns)))
      ORDER BY x.bot_id, x.server FOR UPDATE;
    SELECT k.* INTO one FROM pollux.candidate k
      WHERE k.tenant = was AND (k.cluster, k.namespace) <> (c, ns) AND k.beat_at > clock_timestamp() - interval '75 s'
        AND EXISTS (SELECT FROM pollux.candidate m
                     WHERE m.tenant = was AND m.bot_id = k.bot_id AND m.server = k.server AND (m.cluster, m.namespace) = (c, ns)
                       AND m.beat_at > clock_timestamp() - interval '75 s')
      LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the bot % is shared with %/%, which would stay behind and lead it, too', one.bot_id, one.namespace, one.name
            USING ERRCODE = 'PX004';
    END IF;
    DELETE FROM pollux.candidate k
     WHERE k.cluster = c AND k.namespace = ns
       AND (k.tenant <> was OR (t, k.bot_id, k.server, k.id) IN (SELECT d.tenant, d.bot_id, d.server, d.id FROM pollux.candidate d));
    UPDATE pollux.candidate SET tenant = t WHERE cluster = c AND namespace = ns AND tenant = was;
    FOR l IN SELECT * FROM pollux.lease x WHERE x.tenant = was AND x.cluster = c AND x.namespace = ns LOOP
        SELECT * INTO o FROM pollux.lease x WHERE x.tenant = t AND x.bot_id = l.bot_id AND x.server = l.server FOR UPDATE;
        IF o.holder IS NOT NULL AND o.expires_at > clock_timestamp() - interval '75 s' THEN
            RAISE EXCEPTION 'the bot % is led in tenant % too, by %/%', l.bot_id, quote_literal(t), o.namespace, o.name
                USING ERRCODE = 'PX004';
        END IF;
        DELETE FROM pollux.handover WHERE tenant = t AND bot_id = l.bot_id AND server = l.server;
        DELETE FROM pollux.lease WHERE tenant = t AND bot_id = l.bot_id AND server = l.server;
        UPDATE pollux.handover SET tenant = t WHERE tenant = was AND bot_id = l.bot_id AND server = l.server;
        UPDATE pollux.lease SET tenant = t, epoch = CASE WHEN epoch > o.epoch OR o.epoch IS NULL THEN epoch ELSE o.epoch + 1 END
         WHERE tenant = was AND bot_id = l.bot_id AND server = l.server;
    END LOOP;
    RETURN true;
END $$;

-- Nobody but the owner, until the group of agents is granted what is theirs.
REVOKE ALL ON ALL TABLES IN SCHEMA pollux FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA pollux FROM PUBLIC;
