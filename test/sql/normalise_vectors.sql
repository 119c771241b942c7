-- Public test vectors: ../shared/data/normalise, or under CDP_SHARED_DATA.
-- Without them the test says SKIPPED; phones need libphonenumber.
\set have `test -r "${CDP_SHARED_DATA:-../shared/data}/normalise/phone_vectors.csv" && echo true || echo false`
\if :have
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SELECT version IS NULL AS missing FROM cdp.normaliser_versions() WHERE normaliser = 'phone' \gset library_
\if :library_missing
\echo SKIPPED: built without libphonenumber
\quit
\endif
SET search_path = cdp, public;

CREATE TEMP TABLE phone (source text, input text, default_region text, e164 text, country_code text, nsn text, extension text, region text,
	type text, is_possible text, is_valid text, international text, national text, error text);
\copy phone FROM PROGRAM 'cat "${CDP_SHARED_DATA:-../shared/data}/normalise/phone_vectors.csv"' (FORMAT csv, HEADER)
-- E.164 is exact on every row; where it is empty, the input is no number
SELECT count(*) AS rows, count(*) FILTER (WHERE normalise_phone(input, default_region) IS NOT DISTINCT FROM e164) AS exact FROM phone;
SELECT source, input, default_region, e164, normalise_phone(input, default_region) FROM phone WHERE normalise_phone(input, default_region) IS DISTINCT FROM e164;
-- the kind's normaliser knows no region: international form is exact, national form is refused
SELECT default_region IS NULL AS international, count(*) AS rows, count(*) FILTER (WHERE normalise('phone', input) IS NOT DISTINCT FROM e164) AS exact,
	count(*) FILTER (WHERE normalise('phone', input) <> e164) AS wrong FROM phone GROUP BY 1 ORDER BY 1 DESC;
-- numbers that no region is needed for read the same with the wrong one
SELECT count(*) AS wrong FROM phone WHERE default_region IS NULL AND normalise_phone(input, 'DE') IS DISTINCT FROM e164;
-- E.164 of a valid number is its own
SELECT count(*) AS wrong FROM phone WHERE is_valid = '1' AND normalise('phone', e164) IS DISTINCT FROM e164;
-- and canonical forms are their own
SELECT count(*) AS wrong FROM phone WHERE normalise('phone', normalise('phone', input)) IS DISTINCT FROM normalise('phone', input);

CREATE TEMP TABLE valid (j jsonb);
\copy valid FROM PROGRAM 'cat "${CDP_SHARED_DATA:-../shared/data}/normalise/email_valid.jsonl"' (FORMAT csv, QUOTE E'\x01', DELIMITER E'\x02')
-- validity: agreement where the case asks for no option
SELECT count(*) AS rows, count(*) FILTER (WHERE (normalise('email', j->>'input') IS NOT NULL) = (j->>'valid')::boolean) AS agree FROM valid WHERE j->'options' = '{}';
-- that address is one that an input method wrote: it is too long only in full width
SELECT j->>'input' AS input, normalise('email', j->>'input') FROM valid
WHERE j->'options' = '{}' AND (normalise('email', j->>'input') IS NOT NULL) <> (j->>'valid')::boolean;
-- options that our rule does not have: names before the address, lists of hosts, characters and lengths at will
SELECT k AS option, count(*) AS rows, count(*) FILTER (WHERE (normalise('email', j->>'input') IS NOT NULL) = (j->>'valid')::boolean) AS agree
FROM valid, jsonb_object_keys(j->'options') k GROUP BY 1 ORDER BY 1;

CREATE TEMP TABLE normal (j jsonb);
\copy normal FROM PROGRAM 'cat "${CDP_SHARED_DATA:-../shared/data}/normalise/email_normalize.jsonl"' (FORMAT csv, QUOTE E'\x01', DELIMITER E'\x02')
-- ours differs by rule: no dots or tags taken out, no other domain put in, the domain in ASCII, case folded whole, RFC 5321's syntax demanded
SELECT CASE WHEN n IS NOT DISTINCT FROM e THEN 'same'
			WHEN n IS NULL THEN 'refused'
			WHEN n = lower(e) THEN 'case'
			WHEN n LIKE '%@xn--%' AND split_part(n, '@', 1) = split_part(e, '@', 1) THEN 'domain in ASCII'
			WHEN n = lower(i) THEN 'provider''s rule not applied'
			ELSE 'other' END AS what, count(*)
FROM (SELECT j->>'input' AS i, j->>'expected' AS e, normalise('email', j->>'input') AS n FROM normal) x GROUP BY 1 ORDER BY 1;
-- so never do two inputs become one that the vectors keep apart
SELECT count(*) AS merged FROM (SELECT normalise('email', j->>'input') AS n FROM normal WHERE j->'options' = '{}'
	GROUP BY 1 HAVING count(DISTINCT lower(j->>'input')) > 1) x WHERE n IS NOT NULL;
\else
\echo SKIPPED: no test vectors in ../shared/data/normalise (CDP_SHARED_DATA)
\endif
