/* sql/segments/tables.sql: definitions of segments, and who is in them */

CREATE TABLE cdp.segment_definitions (
	id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name text NOT NULL CONSTRAINT segment_definitions_name UNIQUE
		CHECK (name COLLATE "C" ~ CASE WHEN hidden THEN '^[$][0-9]*$' ELSE '^[a-z_][a-z0-9_]{0,50}$' END),
	entity text NOT NULL DEFAULT 'profile' CHECK (entity IN ('profile', 'account')),
	predicate cdp.predicate NOT NULL,
	exit_when cdp.predicate,
	timezone text NOT NULL DEFAULT 'UTC',
	description text,
	exclude int[] NOT NULL DEFAULT '{}',
	holdout float8 NOT NULL DEFAULT 0 CHECK (holdout >= 0 AND holdout < 1),
	seed text NOT NULL DEFAULT '',
	version int NOT NULL DEFAULT 1,
	options jsonb NOT NULL DEFAULT '{}',
	owner text NOT NULL,
	channel text NOT NULL,
	enabled boolean NOT NULL DEFAULT true,
	created_at timestamptz NOT NULL DEFAULT cdp.clock(),
	altered_at timestamptz NOT NULL DEFAULT cdp.clock(),
	-- what the words of the texts stand for
	terms int[] NOT NULL DEFAULT '{}',
	trait_names text[] NOT NULL DEFAULT '{}',
	trait_ids int[] NOT NULL DEFAULT '{}',
	segment_ids int[] NOT NULL DEFAULT '{}',
	hidden boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE cdp.segment_definitions IS 'definitions of segments as written';
COMMENT ON COLUMN cdp.segment_definitions.exclude IS 'segments whose members are not in this one';
COMMENT ON COLUMN cdp.segment_definitions.holdout IS 'fraction of profiles, chosen by their id and seed, that are kept out';
COMMENT ON COLUMN cdp.segment_definitions.version IS 'counts the changes of what decides membership';
COMMENT ON COLUMN cdp.segment_definitions.terms IS 'by vocabulary call in predicate, then exit_when: id of the hidden trait or of the segment that it stands for';
COMMENT ON COLUMN cdp.segment_definitions.segment_ids IS 'segments that the texts refer to';
COMMENT ON COLUMN cdp.segment_definitions.hidden IS 'stands for what a segment of accounts asks of members; goes with the last one that asks it';
COMMENT ON COLUMN cdp.segment_definitions.trait_ids IS 'by element of trait_names, a name in the texts: id of the trait that it stands for';

CREATE VIEW cdp.waiting_segments AS
	WITH RECURSIVE s(id) AS (
		SELECT w.id FROM (
			SELECT b.id FROM cdp.backfills b WHERE b.kind = 'segment'
			UNION ALL
			SELECT d.id FROM cdp.building_traits t JOIN cdp.definition_depends d ON d.trait_id = t.id AND d.kind = 'segment') w
		UNION
		SELECT d.id FROM s JOIN cdp.segment_definitions d ON s.id = ANY (d.segment_ids))
	SELECT s.id FROM s;
COMMENT ON VIEW cdp.waiting_segments IS 'internal: segments that are not evaluated yet, because their back-fill or that of what they read is not done';

-- Joins of whole sets: for a subquery a row the planner expects so much that it compiles it, for seconds (jit_above_cost).
CREATE VIEW cdp.hidden_traits AS
	WITH RECURSIVE asks(kind, id, asker_kind, asker) AS MATERIALIZED (
		SELECT 'trait'::text, h.id, d.kind, d.id
		FROM cdp.definition_depends d JOIN cdp.trait_definitions h ON h.id = d.trait_id AND h.hidden
		UNION ALL
		SELECT 'segment', h.id, 'segment', d.id
		FROM cdp.segment_definitions d CROSS JOIN unnest(d.segment_ids) u(id)
		JOIN cdp.segment_definitions h ON h.id = u.id AND h.hidden
	), asked(trait, kind, id) AS (
		SELECT t.id, 'trait'::text, t.id FROM cdp.trait_definitions t WHERE t.hidden
		UNION
		SELECT a.trait, n.asker_kind, n.asker
		FROM asked a JOIN asks n ON n.id = a.id AND n.kind = CASE a.kind WHEN 'account' THEN 'trait' ELSE a.kind END
	), askers(trait, names) AS (
		SELECT n.trait, string_agg(n.name, ', ' ORDER BY n.name COLLATE "C") FROM (
			SELECT DISTINCT a.trait, CASE WHEN s.id IS NULL THEN 'trait ' || m.name ELSE 'segment ' || s.name END AS name
			FROM asked a
			LEFT JOIN cdp.segment_definitions s ON a.kind IN ('segment', 'segment version') AND s.id = a.id AND NOT s.hidden
			LEFT JOIN cdp.trait_definitions m ON a.kind IN ('trait', 'account') AND m.id = a.id AND NOT m.hidden
			WHERE COALESCE(s.id, m.id) IS NOT NULL) n
		GROUP BY n.trait)
	SELECT t.id, CASE WHEN r.name IS NOT NULL THEN r.name
			WHEN t.aggregate IN ('consent', 'consent_latest') THEN pg_catalog.format('consented(%L)', t.key)
			ELSE COALESCE(q.names, t.name)
				|| COALESCE(': ' || t.event, CASE WHEN t.entity = 'account' OR t.aggregate = 'expression' THEN ': members'
					ELSE ': ' || t.key END, '')
		END AS name
	FROM cdp.trait_definitions t
	LEFT JOIN cdp.backfills b ON b.kind = 'trait' AND b.id = t.id
	LEFT JOIN cdp.trait_definitions r ON r.id = b.replaces
	LEFT JOIN askers q ON q.trait = t.id
	WHERE t.hidden;
COMMENT ON VIEW cdp.hidden_traits IS 'internal: how hidden traits are called to users, by who asks for them and what they look at';

-- A row stays when its profile leaves, so that re-entries are numbered.
CREATE TABLE cdp.segment_members (
	segment_id int NOT NULL,
	profile_id bigint NOT NULL,
	member boolean NOT NULL,
	entered_at timestamptz NOT NULL,
	entries int NOT NULL DEFAULT 1,
	PRIMARY KEY (profile_id, segment_id)
) WITH (fillfactor = 80);
CREATE INDEX segment_members_current ON cdp.segment_members (segment_id, profile_id) WHERE member;
COMMENT ON TABLE cdp.segment_members IS 'who is, or was, in which segment as of the applied clock; entries counts how often it was entered';

CREATE TABLE cdp.segment_errors (
	segment_id int PRIMARY KEY,
	errors bigint NOT NULL,
	last_error text NOT NULL,
	last_profile bigint,
	last_at timestamptz NOT NULL,
	suspended boolean NOT NULL DEFAULT false
) WITH (fillfactor = 50);
COMMENT ON TABLE cdp.segment_errors IS 'errors that predicates raised: such a profile is left out of the segment, others are not affected';
COMMENT ON COLUMN cdp.segment_errors.suspended IS 'the definition could not be compiled when it was last needed';

-- Counted by the sessions that evaluate, added here from time to time.
CREATE TABLE cdp.segment_evaluations (
	segment_id int PRIMARY KEY,
	evaluations bigint NOT NULL,
	timed bigint NOT NULL,
	timed_us float8 NOT NULL
) WITH (fillfactor = 50);
COMMENT ON COLUMN cdp.segment_evaluations.timed IS 'of these, how many were timed: one call in sixteen';
COMMENT ON COLUMN cdp.segment_evaluations.timed_us IS 'how long those took, in microseconds';
COMMENT ON TABLE cdp.segment_evaluations IS 'how many profiles were evaluated for a segment; see cdp.stat_segments';

SELECT pg_extension_config_dump('cdp.segment_definitions', '');
SELECT pg_extension_config_dump('cdp.segment_definitions_id_seq', '');
SELECT pg_extension_config_dump('cdp.segment_members', '');
SELECT pg_extension_config_dump('cdp.segment_errors', '');
