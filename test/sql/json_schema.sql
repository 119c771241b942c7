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

-- every keyword of the vocabularies of 2020-12, and of those before it, is
-- known or refused, also below the root
SELECT k AS refused, judge('{}', json_build_object('properties', json_build_object('a', json_build_object(k, v)))) LIKE 'refused%' AS is
FROM (VALUES ('unevaluatedProperties', 'false'::json), ('unevaluatedItems', 'false'), ('$dynamicRef', '"#a"'),
	('$dynamicAnchor', '"a"'), ('$vocabulary', '{}'), ('$id', '"https://example.com/a"'), ('$recursiveRef', '"#"'), ('$recursiveAnchor', 'true'),
	('definitions', '{}'), ('dependencies', '{}'), ('additionalItems', 'false'), ('format', '"iri"'), ('format', '"regex"'),
	('format', '"idn-email"'), ('format', '"uri-reference"'), ('format', '"relative-json-pointer"'), ('format', '"uri-template"'),
	('format', '"idn-hostname"'), ('format', '"iri-reference"'), ('$ref', '"other.json"'), ('$ref', '"https://example.com/a"'), ('requierd', '[]')) k (k, v)
ORDER BY k COLLATE "C", v::text COLLATE "C";

-- a pattern that is none is refused with its place
SELECT cdp.schema_check('{"properties": {"a": {"pattern": "(a"}}}');
-- patterns that can take forever are refused, or look at so much only
SELECT p AS pattern, left(judge('"aa"', json_build_object('pattern', p)), 40) AS found
FROM unnest('{(a)\\1,^(a*)(a*)(a*)\\1\\2\\3b$,\\2,a(?=a),(?<!b)a,(?:a)+}'::text[]) p;
SELECT n, judge(to_json(repeat('a', n)), '{"pattern": "(?=a*b)"}') AS around, judge(to_json(repeat('a', n)), '{"not": {"pattern": "(?=a*b)"}}') AS not_around,
	judge(to_json(repeat('a', n)), '{"pattern": "a*b|a$"}') AS plain
FROM unnest(ARRAY[10000, 10001]) n;
SELECT * FROM cdp.schema_violations(to_jsonb(repeat('a', 10001)), '{"pattern": "(?=a)", "type": "object"}');

-- a zero byte leads nowhere
SELECT judge('1', '{"$ref": "#/$defs/a%00b", "$defs": {"a": {}}}');

-- what judging may cost: depth, subschemas that are judged, violations; the
-- outcome is the same whatever the stack
CREATE FUNCTION doubling(n int) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('$ref', '#/$defs/d0', '$defs', jsonb_object_agg('d' || i, CASE WHEN i < n
		THEN jsonb_build_object('allOf', jsonb_build_array(jsonb_build_object('$ref', '#/$defs/d' || i + 1), jsonb_build_object('$ref', '#/$defs/d' || i + 1)))
		ELSE '{"type": "string"}' END)) FROM generate_series(0, n) i
$$;
SELECT n, (SELECT count(*) FROM cdp.schema_violations('1', doubling(n))) AS violations,
	(SELECT min(keyword) FROM cdp.schema_violations('1', doubling(n))) AS keyword,
	judge('"a"', doubling(n)::json) AS string
FROM unnest(ARRAY[3, 14, 15, 25, 60]) n;
SELECT n, judge((repeat('[', n) || repeat(']', n))::json, '{"items": {"$ref": "#"}}') AS valid,
	judge((repeat('[', n) || repeat(']', n))::json, '{"not": {"items": {"$ref": "#/not"}}}') AS invalid
FROM unnest(ARRAY[50, 99, 101, 200]) n;
SELECT n, count(*), min(v.keyword) FROM unnest(ARRAY[10000, 10001]) n
CROSS JOIN LATERAL cdp.schema_violations((SELECT jsonb_agg(i) FROM generate_series(1, n) i), '{"items": {"type": "string"}}') v GROUP BY n ORDER BY n;
