-- bench/plpgsql.sql: the rival that folds the same stream event by event.
--
-- What an able developer writes by hand: an identity table with merges by
-- relabelling, one row of counters a profile with its segments, an outbox.
-- No late or duplicate entries, no limits, no undo, no timers.
CREATE TABLE bench.hand_identities (identifier text PRIMARY KEY, profile_id bigint NOT NULL) WITH (fillfactor = 70);
CREATE INDEX ON bench.hand_identities (profile_id);
CREATE SEQUENCE bench.hand_profile;
CREATE TABLE bench.hand_profiles (
	profile_id bigint PRIMARY KEY,
	views int DEFAULT 0, orders int DEFAULT 0, ltv numeric DEFAULT 0,
	largest numeric, first_order timestamptz, last_login timestamptz,
	favourites jsonb DEFAULT '{}', last_orders timestamptz[] DEFAULT '{}',
	last_views timestamptz[] DEFAULT '{}', country text, segments text[] DEFAULT '{}'
) WITH (fillfactor = 70);
CREATE TABLE bench.hand_changes (seq bigserial, profile_id bigint, segment text, entered boolean);

CREATE FUNCTION bench.hand_fold(e bench.plain) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	ids text[] := e.identifiers::text[];
	known bigint[];
	pid bigint;
	other bigint;
	p bench.hand_profiles;
	o bench.hand_profiles;
	segs text[] := '{}';
	cat text;
	revenue numeric;
BEGIN
	SELECT array_agg(DISTINCT profile_id ORDER BY profile_id) INTO known
	FROM bench.hand_identities WHERE identifier = ANY (ids);
	pid := known[1];
	IF pid IS NULL THEN
		pid := nextval('bench.hand_profile');
		INSERT INTO bench.hand_profiles (profile_id) VALUES (pid);
	END IF;
	IF cardinality(ids) > 1 OR known IS NULL THEN
		INSERT INTO bench.hand_identities SELECT i, pid FROM unnest(ids) i ON CONFLICT DO NOTHING;
	END IF;
	SELECT * INTO p FROM bench.hand_profiles WHERE profile_id = pid;
	FOREACH other IN ARRAY coalesce(known[2:], '{}') LOOP
		UPDATE bench.hand_identities SET profile_id = pid WHERE profile_id = other;
		DELETE FROM bench.hand_profiles WHERE profile_id = other RETURNING * INTO o;
		p.views := p.views + o.views;
		p.orders := p.orders + o.orders;
		p.ltv := p.ltv + o.ltv;
		p.largest := greatest(p.largest, o.largest);
		p.first_order := least(p.first_order, o.first_order);
		p.last_login := greatest(p.last_login, o.last_login);
		p.last_orders := p.last_orders || o.last_orders;
		p.last_views := p.last_views || o.last_views;
		p.country := coalesce(o.country, p.country);
		SELECT coalesce(jsonb_object_agg(k, n), '{}') INTO p.favourites
		FROM (SELECT k, sum(v::int) AS n
			  FROM (SELECT * FROM jsonb_each_text(p.favourites)
					UNION ALL SELECT * FROM jsonb_each_text(o.favourites)) x(k, v)
			  GROUP BY k) y;
	END LOOP;
	IF e.type = 'identify' THEN
		p.country := coalesce(e.properties->>'country', p.country);
	ELSIF e.event = 'Product Viewed' THEN
		cat := e.properties->>'category';
		p.views := p.views + 1;
		p.favourites := p.favourites || jsonb_build_object(cat, coalesce((p.favourites->>cat)::int, 0) + 1);
		p.last_views := array(SELECT v FROM unnest(p.last_views || e.occurred_at) v
							  WHERE v > e.occurred_at - interval '7 days');
	ELSIF e.event = 'Order Completed' THEN
		revenue := (e.properties->>'revenue')::numeric;
		p.orders := p.orders + 1;
		p.ltv := p.ltv + revenue;
		p.largest := greatest(p.largest, revenue);
		p.first_order := least(p.first_order, e.occurred_at);
		p.last_orders := array(SELECT v FROM unnest(p.last_orders || e.occurred_at) v
							   WHERE v > e.occurred_at - interval '30 days');
	ELSIF e.event = 'Logged In' THEN
		p.last_login := greatest(p.last_login, e.occurred_at);
	END IF;
	IF p.orders > 0 THEN
		segs := segs || 'buyers'::text;
	END IF;
	IF p.ltv > 500 AND cardinality(p.last_orders) >= 2 THEN
		segs := segs || 'high_value'::text;
	END IF;
	IF cardinality(p.last_views) >= 3 AND
	   coalesce(p.last_orders[cardinality(p.last_orders)] < e.occurred_at - interval '7 days', true) THEN
		segs := segs || 'warm_leads'::text;
	END IF;
	IF p.country IN ('DE', 'FR', 'NL') AND p.views >= 5 THEN
		segs := segs || 'europe'::text;
	END IF;
	IF p.orders <= 3 AND (SELECT key FROM jsonb_each_text(p.favourites)
						  ORDER BY value::int DESC, key LIMIT 1) = 'tents' THEN
		segs := segs || 'tent_people'::text;
	END IF;
	IF segs <> p.segments THEN
		INSERT INTO bench.hand_changes (profile_id, segment, entered)
		SELECT pid, s, true FROM unnest(segs) s WHERE s <> ALL (p.segments)
		UNION ALL
		SELECT pid, s, false FROM unnest(p.segments) s WHERE s <> ALL (segs);
	END IF;
	UPDATE bench.hand_profiles
	SET views = p.views, orders = p.orders, ltv = p.ltv, largest = p.largest,
		first_order = p.first_order, last_login = p.last_login, favourites = p.favourites,
		last_orders = p.last_orders, last_views = p.last_views, country = p.country, segments = segs
	WHERE profile_id = pid;
END $$;

CREATE PROCEDURE bench.hand_apply(batch int) LANGUAGE plpgsql AS $$
DECLARE
	e bench.plain;
	n bigint;
	last bigint := 0;
BEGIN
	LOOP
		n := 0;
		FOR e IN SELECT * FROM bench.plain WHERE id > last ORDER BY id LIMIT batch LOOP
			PERFORM bench.hand_fold(e);
			last := e.id;
			n := n + 1;
		END LOOP;
		COMMIT;
		EXIT WHEN n = 0;
	END LOOP;
END $$;
