-- CALL permute(rule, messages): the log of these messages in every order that there
-- is, each message a batch; what becomes of it goes to the table "results" every
-- time, as (rule, columns of outcome).
--
-- Whoever includes this has made before: results (a table), outcome (a view of
-- one row: what the order must make no difference to), enter(message) (a
-- function: logs a message).
CREATE PROCEDURE permute(rule text, messages text[]) LANGUAGE plpgsql AS $$
DECLARE
	n int := cardinality(messages);
	place int[] := array_fill(0, ARRAY[n]);
	perm text[] := messages;
	i int := 1;
	again boolean := true;
	m text;
BEGIN
	-- Heap's algorithm
	WHILE again LOOP
		DELETE FROM cdp.events;
		TRUNCATE cdp.identities, cdp.links, cdp.decisions, cdp.entry_pieces, cdp.withheld_entries, cdp.releases, cdp.rejected, cdp.timers;
		UPDATE cdp.applier SET token = 1;
		COMMIT;
		FOREACH m IN ARRAY perm LOOP
			PERFORM enter(m);
			COMMIT;
			PERFORM cdp.apply();
			COMMIT;
		END LOOP;
		INSERT INTO results SELECT rule, o.* FROM outcome o;
		COMMIT;
		again := false;
		WHILE i < n LOOP
			IF place[i + 1] < i THEN
				m := perm[i + 1];
				IF i % 2 = 0 THEN
					perm[i + 1] := perm[1];
					perm[1] := m;
				ELSE
					perm[i + 1] := perm[place[i + 1] + 1];
					perm[place[i + 1] + 1] := m;
				END IF;
				place[i + 1] := place[i + 1] + 1;
				i := 1;
				again := true;
				EXIT;
			END IF;
			place[i + 1] := 0;
			i := i + 1;
		END LOOP;
	END LOOP;
END
$$;
