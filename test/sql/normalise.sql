-- Normalisers: the rules of src/identity/README.md.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET search_path = cdp, public;
-- the width of characters that are not seen depends on the version of psql
\pset format unaligned

-- verbatim means verbatim
SELECT normalise('verbatim', ' A b ') = ' A b ' AS same, normalise('verbatim', '') = '' AS empty;
SELECT normalise('rot13', 'x');
SELECT normalise('email', NULL), normalise(NULL, 'x');

-- nfkc: compatibility forms and case are folded
SELECT v, normalise('nfkc', v) FROM unnest(ARRAY['ABC', 'Straße', 'ｆｕｌｌ', 'ﬁne', '①', 'É', E'E\u0301', 'ΣΊΣΥΦΟΣ']) v;

-- lower: trimmed, composed, in lower case; nothing is folded together beyond that
SELECT v, normalise('lower', v) FROM unnest(ARRAY['ABC', ' A b	', '', 'Straße', 'STRASSE', 'ＦＵＬＬ', '①', 'É', E'E\u0301', 'ΣΊΣΥΦΟΣ', E'\u00A0Ada\u200B', E'\u0130x']) v;

-- e-mail: trimmed, in lower case, domain in ASCII; nothing else
SELECT v, normalise('email', v) FROM unnest(ARRAY[
	'Ada@Example.COM', '  ada@example.com	', 'Ada.Love+x@gmail.com', 'adalove@gmail.com', 'ada@googlemail.com',
	'JOSÉ@example.com', E'Jose\u0301@example.com', 'Groß@example.com', 'gross@example.com',
	'x@BÜCHER.example', 'x@straße.de', 'x@strasse.de', 'x@xn--bcher-kva.example', 'x@例え.テスト', 'x@XN--R8JZ45G.xn--zckzah',
	'ｆｏｏ＠ｇｍａｉｌ．ｃｏｍ', E'\u200Bada@example.com\uFEFF', E'\u00A0ada@example.com',
	'user²@example.com', 'ΟΔΟΣ@example.com', '"Ada L"@example.com', 'o''brien@example.com', 'a@b.co']) v;
-- no address: not normalisable, so no identifier
SELECT v, normalise('email', v) IS NULL AS refused FROM unnest(ARRAY[
	'', '@', 'ada', 'ada@', '@example.com', 'ada@example', 'ada@localhost', 'a b@example.com', 'a@b@example.com', 'ada@example..com',
	'ada@.example.com', 'ada@example.com.', 'ada@-x.com', 'ada@x-.com', 'ada@x_y.com', 'ada@127.0.0.1', 'ada@[127.0.0.1]', 'ada@x.1',
	'ada@x.c', '.ada@example.com', 'ada.@example.com', 'a..b@example.com', '"ada@example.com', 'a"b"@example.com', '""@example.com', '"a\"@example.com',
	'Ada <ada@example.com>', 'ada@example.com, bob@example.com', 'mailto:ada@example.com', E'a\u0001b@example.com', E'a\u200Bb@example.com', E'a\u202Eb@example.com',
	'ada@xn--a.com', 'ada@example.c©m', 'ada@exa mple.com', repeat('a', 65) || '@example.com', 'a@' || repeat('a', 64) || '.com',
	'a@' || repeat(repeat('a', 49) || '.', 6) || 'com']) v;
SELECT length(normalise('email', repeat('a', 64) || '@' || repeat('b', 63) || '.com'));

-- every normaliser is idempotent: around every character of the basic plane and some beyond
CREATE TEMP TABLE c AS SELECT chr(g) AS c FROM generate_series(1, 65533) g WHERE g NOT BETWEEN 55296 AND 57343
UNION ALL SELECT chr(g) FROM generate_series(65536, 131071, 7) g;
SELECT n, count(*) AS wrong FROM (
	SELECT n, normalise(n, v) AS once FROM c, LATERAL (VALUES ('nfkc', 'a' || c || 'b'), ('lower', 'A' || c || 'B' || c), ('email', 'a' || c || 'b@example.com'), ('email', 'ab@ex' || c || 'mple.com'), ('email', c || 'ab@x.com' || c)) f (n, v)) o
WHERE normalise(n, once) IS DISTINCT FROM once GROUP BY n;
-- ASCII has a short cut, which an invisible character in front keeps it from taking: the same comes out
SELECT setseed(0.7);
CREATE TEMP TABLE a AS SELECT (SELECT string_agg(substr('abcXYZ019.-_+"@\ !', 1 + floor(random() * 18)::int, 1), '') FROM generate_series(1, 1 + g % 6))
	|| CASE WHEN g % 5 > 0 THEN '@' ELSE '' END
	|| (SELECT string_agg(substr('abcXYZ019.-_@xn', 1 + floor(random() * 15)::int, 1), '') FROM generate_series(1, 1 + g % 7))
	|| (ARRAY['.com', '.co.UK', '', '.x', '.c0m', '.xn--p1ai', '.com.', '.a-b'])[1 + floor(random() * 8)::int] AS v
FROM generate_series(1, 20000) g;
SELECT count(*) AS wrong FROM a
WHERE normalise('email', v) IS DISTINCT FROM normalise('email', E'\u200B' || v);
SELECT count(*) AS wrong FROM a
WHERE normalise('lower', v) IS DISTINCT FROM normalise('lower', E'\u200B' || v);
SELECT count(normalise('email', v)) > 500 AS many FROM a;
-- two addresses become one only when they differ in case, width, composition or at the ends
SELECT count(*) AS merged FROM (
	SELECT normalise('email', 'a' || c || 'b@example.com') AS once, array_agg(c) AS cs FROM c GROUP BY 1 HAVING count(*) > 1) m
WHERE once IS NOT NULL
	AND EXISTS (SELECT FROM unnest(cs) p, unnest(cs) q WHERE p < q
				AND lower(normalize(normalise('nfkc', p), NFKC)) <> lower(normalize(normalise('nfkc', q), NFKC)));

-- absurd input: NULL, no crash
SELECT normalise(n, repeat('x', 32 * 1024 * 1024)) IS NULL FROM unnest(ARRAY['email', 'lower', 'nfkc', 'phone']) n;
SELECT normalise('email', repeat('é', 1000) || '@example.com') IS NULL, normalise('email', 'a@' || repeat('é', 1000) || '.com') IS NULL,
	normalise('email', repeat('@', 1000)) IS NULL, normalise('phone', '+' || repeat('1', 1000)) IS NULL;
SELECT count(normalise(n, s)) >= 0 AS alive FROM unnest(ARRAY['email', 'lower', 'nfkc', 'phone']) n,
	(SELECT string_agg(chr(1 + (g * 7919 + h * 104729) % 50000), '') AS s FROM generate_series(1, 200) h, generate_series(1, 12) g GROUP BY h) z;

-- a database in another encoding: what it cannot hold has no canonical form
CREATE DATABASE regress_cdp_latin1 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0;
\set db :DBNAME
\c regress_cdp_latin1
SET client_min_messages = error;
CREATE EXTENSION cdp;
SET client_encoding = utf8;
SELECT cdp.normalise('email', 'JOSÉ@BÜCHER.example'), cdp.normalise('nfkc', 'Straße'), cdp.normalise('lower', ' STRAßE'), cdp.normalise('phone', '+49 30 901820'), cdp.normalise('nfkc', 'µ') IS NULL AS no_greek_here;
\c :db
DROP DATABASE regress_cdp_latin1;
