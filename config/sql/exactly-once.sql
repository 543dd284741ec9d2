-- Exactly-once effects for a bot under Pollux: what to call in your own transactions. docs/exactly-once.md says when and how.
--
-- For the database that your bot writes to, which need not be the one with the leases. PostgreSQL 14 or newer; needs no
-- extension and no superuser. It can be applied again at any time:
--
--     psql "$DATABASE_URL" --single-transaction --set ON_ERROR_STOP=1 --file exactly-once.sql
--
-- Both functions decide by locks that last until your transaction ends, so they hold at every isolation level and behind
-- a pooler in transaction mode. In REPEATABLE READ and SERIALIZABLE a wait for somebody else's transaction may end with
-- SQLSTATE 40001: nothing was written, begin the transaction again.

CREATE SCHEMA IF NOT EXISTS pollux_bot;

-- The highest epoch that has written, one row per bot.
CREATE TABLE IF NOT EXISTS pollux_bot.fence (
    bot_id bigint PRIMARY KEY,
    epoch  bigint NOT NULL
);

CREATE TABLE IF NOT EXISTS pollux_bot.processed_updates (
    bot_id       bigint      NOT NULL,
    update_id    bigint      NOT NULL,
    processed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (bot_id, update_id)
);
CREATE INDEX IF NOT EXISTS processed_updates_by_age ON pollux_bot.processed_updates (processed_at);

-- How long a processed update is remembered. Telegram delivers an update again for a day, so not less; after a week
-- without any it goes on with other ids, which may have been there before, so not more.
CREATE OR REPLACE FUNCTION pollux_bot.remembered() RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT interval '3 days'
$$;

-- A bot that freezes within its transaction, or whose node dies, would keep the next one waiting for ever: where there is no
-- bound on that, there is one until this transaction ends.
CREATE OR REPLACE FUNCTION pollux_bot.bound_idle_time() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('idle_in_transaction_session_timeout') = '0' THEN
        PERFORM set_config('idle_in_transaction_session_timeout', '10s', true);
    END IF;
END $$;

-- Whether this epoch may still write: false once a later one has. To be called first in the transaction.
--
-- Until your transaction ends no later epoch gets an answer, and from the commit of a later epoch on no earlier one gets
-- true: all that is written under an epoch is committed before anything is written under a later one. Transactions of
-- the same epoch do not wait for each other. A rollback takes the epoch back too.
--
-- Null, which is what /leader says on a pod that does not lead, may not write.
CREATE OR REPLACE FUNCTION pollux_bot.fence_bump(bot_id bigint, epoch bigint) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF fence_bump.epoch IS NULL THEN
        RETURN false;
    END IF;
    PERFORM pollux_bot.bound_idle_time();
    PERFORM FROM pollux_bot.fence f
        WHERE f.bot_id = fence_bump.bot_id AND f.epoch = fence_bump.epoch
        FOR SHARE;
    IF FOUND THEN
        RETURN true;
    END IF;
    -- The next statement would decide this too, but with a lock that is nothing for a stale transaction; and one that has
    -- waited above has a share of it by now: two of those would deadlock.
    PERFORM FROM pollux_bot.fence f WHERE f.bot_id = fence_bump.bot_id AND f.epoch > fence_bump.epoch;
    IF FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO pollux_bot.fence AS f VALUES (fence_bump.bot_id, fence_bump.epoch)
        ON CONFLICT ON CONSTRAINT fence_pkey DO UPDATE SET epoch = excluded.epoch WHERE f.epoch <= excluded.epoch;
    RETURN FOUND;
END $$;

-- Whether this update is yours to process: false if it was processed before. To be called in the transaction of its effects.
--
-- While another transaction has it this waits: for its commit, and says false, or for its rollback, and says true.
CREATE OR REPLACE FUNCTION pollux_bot.claim_update(bot_id bigint, update_id bigint) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pollux_bot.bound_idle_time();
    INSERT INTO pollux_bot.processed_updates AS p (bot_id, update_id) VALUES (claim_update.bot_id, claim_update.update_id)
        -- What is too old to be this update counts as gone, whether or not it was removed.
        ON CONFLICT ON CONSTRAINT processed_updates_pkey DO UPDATE SET processed_at = excluded.processed_at
            WHERE p.processed_at < excluded.processed_at - pollux_bot.remembered();
    RETURN FOUND;
END $$;

-- Removes at most so many of the rows that count no more, and says how many. It waits for nobody.
CREATE OR REPLACE FUNCTION pollux_bot.forget_updates(at_most integer DEFAULT 1000) RETURNS bigint
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    WITH old AS MATERIALIZED (
        SELECT p.bot_id, p.update_id FROM pollux_bot.processed_updates p
        WHERE p.processed_at < now() - pollux_bot.remembered()
        ORDER BY p.processed_at LIMIT $1
        FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM pollux_bot.processed_updates p USING old
        WHERE p.bot_id = old.bot_id AND p.update_id = old.update_id
        RETURNING 1
    )
    SELECT count(*) FROM gone
$$;
