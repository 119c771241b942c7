--
-- Every payload in the documentation of Segment and RudderStack is taken and
-- comes back unchanged. The file is not part of the project.
--
\set lines `cat "${CDP_SHARED_DATA:-../shared/data}/events/segment_payloads.jsonl" 2>/dev/null || true`
SELECT :'lines' = '' AS absent \gset
\if :absent
\echo SKIPPED: no ../shared/data/events/segment_payloads.jsonl, see CDP_SHARED_DATA
\quit
\endif
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET cdp.now = '2026-03-01 12:00:00+00';

CREATE TABLE payloads AS
SELECT l.n, l.line::jsonb->'payload' AS payload
FROM string_to_table(:'lines', E'\n') WITH ORDINALITY l(line, n)
WHERE l.line::jsonb->>'kind' = 'payload';
SELECT count(*) FROM payloads;

-- one by one
SELECT sum(i.accepted) AS accepted, sum(i.rejected) AS rejected
FROM payloads p, LATERAL cdp.ingest(p.payload, 'single') i;
-- all at once, as an array and as a batch body
SELECT i.* FROM (SELECT jsonb_agg(payload ORDER BY n) FROM payloads) a(payload), LATERAL cdp.ingest(a.payload, 'array') i;
SELECT i.* FROM (SELECT jsonb_build_object('batch', jsonb_agg(payload ORDER BY n)) FROM payloads) a(payload),
	LATERAL cdp.ingest(a.payload, 'batch') i;
-- and unchanged
SELECT s.source, count(*) AS unchanged
FROM (VALUES ('single'), ('array'), ('batch')) s(source), payloads p
WHERE EXISTS (SELECT FROM cdp.events e WHERE e.source = s.source AND cdp.payload(e) = p.payload)
GROUP BY s.source ORDER BY s.source;
SELECT count(*) FROM cdp.rejected;

-- what was found in them
SELECT e.type, cdp.kind(i) AS kind, count(*), count(DISTINCT i)
FROM cdp.events e LEFT JOIN LATERAL unnest(e.identifiers) i ON true
WHERE e.source = 'single' GROUP BY e.type, cdp.kind(i) ORDER BY e.type, kind;

DROP TABLE payloads;
DROP EXTENSION cdp;
