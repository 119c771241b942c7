-- JSON Schema: the official test suite (draft 2020-12, test/json-schema) for the
-- keywords that are known, and what is refused.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
CREATE TABLE files (name text, body json);
CREATE TABLE lines (l text);
\copy lines from program 'for f in test/json-schema/*.json test/json-schema/format/*.json; do printf "{\"file\": \"%s\", \"cases\": " "$(basename $f .json)"; tr -d "[:cntrl:]" < $f; echo "}"; done' with (format csv, quote E'\x01', delimiter E'\x02')
-- text has no \u0000: another control character takes its place
INSERT INTO files SELECT x ->> 'file', x -> 'cases' FROM (SELECT replace(l, '\u0000', '\u0001')::json AS x FROM lines) l;
SELECT count(*) AS files FROM files;

CREATE FUNCTION judge(value json, schema json) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN (NOT EXISTS (SELECT FROM cdp.schema_violations(value::jsonb, schema::jsonb)))::text;
EXCEPTION
	WHEN feature_not_supported THEN RETURN 'refused: ' || SQLERRM || ' ' || schema;
	WHEN OTHERS THEN RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;
CREATE TABLE outcomes AS
SELECT f.name, c.case ->> 'description' AS description, t.test ->> 'description' AS test,
	c.case -> 'schema' AS schema, t.test -> 'data' AS data, t.test ->> 'valid' AS valid, judge(t.test -> 'data', c.case -> 'schema') AS found
FROM files f, json_array_elements(f.body) c ("case"), json_array_elements(c.case -> 'tests') t (test);

-- all that is judged is judged as the suite says
SELECT name, count(*) AS tests, count(*) FILTER (WHERE found = valid) AS agree,
	count(*) FILTER (WHERE found LIKE 'refused%') AS refused
FROM outcomes GROUP BY name ORDER BY name COLLATE "C";
SELECT name, description, test, schema, data, valid, found FROM outcomes
WHERE found <> valid AND found NOT LIKE 'refused%' ORDER BY name COLLATE "C", description, test;
-- what is refused, and why
SELECT DISTINCT name, left(found, 110) AS refused FROM outcomes WHERE found LIKE 'refused%' ORDER BY 1, 2;
