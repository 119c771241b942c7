-- The types cdp.identifier and cdp.key.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET search_path = cdp, public;

-- text
SELECT 'email:ada@example.com'::identifier, kind('email:ada@example.com'), value('email:ada@example.com');
-- a value may be empty, and may contain colons and anything else
SELECT i, kind(i), value(i), length(value(i)) FROM unnest(ARRAY['user_id:', 'a.b_9:x:y', '_:  ', 'k:"q"\{}']::identifier[]) i;
SELECT '' ::identifier;
SELECT 'nocolon'::identifier;
SELECT ':novalue'::identifier;
SELECT 'Email:x'::identifier;
SELECT ' email:x'::identifier;
SELECT '1st:x'::identifier;
SELECT '.a:x'::identifier;
SELECT 'é:x'::identifier;
SELECT (repeat('k', 63) || ':x')::identifier = identifier(repeat('k', 63), 'x');
SELECT (repeat('k', 64) || ':x')::identifier;
SELECT identifier('Kind', 'x');
SELECT identifier('', 'x');
SELECT repeat('é', 200)::identifier;
SELECT NULL::identifier IS NULL, identifier(NULL, 'x') IS NULL, identifier('k', NULL) IS NULL;

-- casts: text and varchar are cast implicitly, and checked
SELECT kind('user_id:u1'::text), kind('user_id:u1'::varchar(20));
SELECT kind('oops'::text);
CREATE TEMP TABLE t (i identifier, s text, a identifier[]);
INSERT INTO t VALUES ('k:1'::text, 'k:2'::identifier, ARRAY['k:3', 'k:"4"', 'k:']::identifier[]), ('k:2'::varchar, 'x', '{}');
SELECT * FROM t;
SELECT count(*) FROM t WHERE i = 'k:1';
SELECT count(*) FROM t WHERE i = 'k:1'::text;
SELECT count(*) FROM t WHERE 'k:4' = ANY (a) OR 'k:""4""' = ANY (a) OR 'k:"4"' = ANY (a);
-- operators of other types are not disturbed
SELECT 'a' = 'b', 'a'::text = 'a'::varchar, 'a'::varchar < 'b'::varchar, 'a'::name = 'a'::text, 1 = 1::bigint;

-- keys: ids of any type, by implicit casts
CREATE FUNCTION pg_temp.f(event text, user_id key DEFAULT NULL) RETURNS text LANGUAGE sql AS 'SELECT $2::text';
SELECT pg_temp.f('x', user_id => 42), pg_temp.f('x', user_id => 'u1'), pg_temp.f('x', user_id => 42::bigint),
	pg_temp.f('x', user_id => 7::smallint), pg_temp.f('x', user_id => 'u2'::text), pg_temp.f('x', user_id => 'u3'::varchar),
	pg_temp.f('x', user_id => '1b4e28ba-2fa1-11d2-883f-0016d3cca427'::uuid), pg_temp.f('x', user_id => '') = '', pg_temp.f('x', user_id => NULL) IS NULL;
SELECT length(pg_temp.f('x', user_id => gen_random_uuid()));
PREPARE p AS SELECT pg_temp.f('x', user_id => $1::text), pg_temp.f('x', user_id => $2);
EXECUTE p ('a', 'b');
SELECT pg_temp.f('x', user_id => 1.5);
SELECT identifier('user_id', 42), identifier('user_id', 'a:b'), identifier('order', 9223372036854775807);

-- random values: out and in, order, hashes
SELECT setseed(0.42);
CREATE TEMP TABLE r AS
SELECT (ARRAY['email', 'user_id', 'k', 'a.b', 'k_'])[1 + floor(random() * 5)::int] || ':' ||
	coalesce((SELECT string_agg(CASE WHEN random() < 0.5 THEN chr(1 + floor(random() * 127)::int)
									 WHEN random() < 0.8 THEN chr(160 + floor(random() * 5000)::int)
									 ELSE chr(65536 + floor(random() * 50000)::int) END, '')
			  FROM generate_series(1, floor(random() * 8)::int + g * 0)), '') AS s
FROM generate_series(1, 3000) g;
INSERT INTO r SELECT s FROM r LIMIT 500;
SELECT count(*) AS wrong FROM r WHERE identifier_out(s::identifier)::text <> s OR identifier_in(identifier_out(s::identifier)) <> s::identifier OR (s::identifier)::text <> s;
CREATE TEMP TABLE x AS SELECT s::identifier AS i, convert_to(s, 'UTF8') AS b FROM r;
-- the order is that of the bytes, in each operator and in sorting
SELECT count(*) AS wrong FROM (SELECT * FROM x LIMIT 300) p, (SELECT * FROM x OFFSET 100 LIMIT 300) q
WHERE (p.i < q.i) <> (p.b < q.b) OR (p.i <= q.i) <> (p.b <= q.b) OR (p.i > q.i) <> (p.b > q.b) OR (p.i >= q.i) <> (p.b >= q.b)
	OR (p.i = q.i) <> (p.b = q.b) OR (p.i <> q.i) <> (p.b <> q.b) OR sign(identifier_cmp(p.i, q.i)) <> -sign(identifier_cmp(q.i, p.i))
	OR sign(identifier_cmp(p.i, q.i)) <> CASE WHEN p.b < q.b THEN -1 WHEN p.b > q.b THEN 1 ELSE 0 END;
SELECT count(*) AS wrong FROM (SELECT b, lag(b) OVER (ORDER BY i) AS before FROM x) o WHERE before > b;
SELECT count(DISTINCT i) = count(DISTINCT b) AS distinct_ok FROM x;
SELECT count(*) AS wrong FROM x p JOIN x q ON p.b = q.b
WHERE identifier_hash(p.i) <> identifier_hash(q.i) OR identifier_hash_extended(p.i, 7) <> identifier_hash_extended(q.i, 7);
-- seed 0 gives the plain hash in the low half
SELECT count(*) AS wrong FROM x WHERE (identifier_hash(i)::bigint & 4294967295) <> (identifier_hash_extended(i, 0) & 4294967295);
-- through indexes
CREATE INDEX x_btree ON x (i);
CREATE INDEX x_hash ON x USING hash (i);
ANALYZE x;
SET enable_seqscan = off;
SET enable_bitmapscan = off;
EXPLAIN (costs off) SELECT * FROM x WHERE i < 'a.b:z' ORDER BY i;
SELECT (SELECT count(*) FROM x WHERE i < 'k:z') = (SELECT count(*) FROM x WHERE b < 'k:z') AS same;
SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off;
SELECT count(*) > 0 AS found FROM x WHERE i = (SELECT min(s) FROM r)::identifier;
RESET enable_seqscan; RESET enable_indexscan; RESET enable_bitmapscan; RESET enable_indexonlyscan;
DROP INDEX x_btree;
SET enable_seqscan = off;
SELECT count(*) AS wrong FROM (SELECT b, i FROM x LIMIT 50) p WHERE (SELECT count(*) FROM x WHERE x.i = p.i) <> (SELECT count(*) FROM x WHERE x.b = p.b);
RESET enable_seqscan;
-- joins by hash and by merge agree
SET enable_nestloop = off; SET enable_mergejoin = off;
SELECT count(*) AS n FROM x p JOIN x q USING (i) \gset hash_
SET enable_hashjoin = off; SET enable_mergejoin = on;
SELECT count(*) AS n FROM x p JOIN x q USING (i) \gset merge_
RESET enable_nestloop; RESET enable_mergejoin; RESET enable_hashjoin;
SELECT :hash_n = :merge_n AS same;
-- hash partitioning uses the extended hash
CREATE TABLE part (i identifier) PARTITION BY HASH (i);
CREATE TABLE part_0 PARTITION OF part FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE part_1 PARTITION OF part FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO part SELECT i FROM x;
SELECT count(*) FROM part WHERE i = 'user_id:nobody';
DROP TABLE part;

-- binary: a round trip, and what must not get in
SELECT encode(identifier_send('k:é'), 'hex'), encode(key_send('é'::text), 'hex');
\copy (SELECT i, ARRAY[i, 'k:'] FROM x) TO 'results/identifier.bin' (FORMAT binary)
CREATE TEMP TABLE y (i identifier, a identifier[]);
\copy y FROM 'results/identifier.bin' (FORMAT binary)
SELECT count(*) AS wrong FROM ((SELECT i FROM x EXCEPT ALL SELECT i FROM y) UNION ALL (SELECT i FROM y EXCEPT ALL SELECT a[1] FROM y)) d;
CREATE TEMP TABLE one (i identifier);
CREATE TEMP TABLE k (k key);
\set VERBOSITY terse
COPY one FROM PROGRAM $$printf 'PGCOPY\n\377\r\n\000\000\000\000\000\000\000\000\000\000\001\000\000\000\003k:1\377\377'$$ (FORMAT binary);
COPY one FROM PROGRAM $$printf 'PGCOPY\n\377\r\n\000\000\000\000\000\000\000\000\000\000\001\000\000\000\003k:1\377\377' | head -c 24$$ (FORMAT binary);
COPY one FROM PROGRAM $$printf 'PGCOPY\n\377\r\n\000\000\000\000\000\000\000\000\000\000\001\000\000\000\003K:1\377\377'$$ (FORMAT binary);
COPY one FROM PROGRAM $$printf 'PGCOPY\n\377\r\n\000\000\000\000\000\000\000\000\000\000\001\000\000\000\003abc\377\377'$$ (FORMAT binary);
COPY one FROM PROGRAM $$printf 'PGCOPY\n\377\r\n\000\000\000\000\000\000\000\000\000\000\001\000\000\000\000\377\377'$$ (FORMAT binary);
COPY one FROM PROGRAM $$printf 'PGCOPY\n\377\r\n\000\000\000\000\000\000\000\000\000\000\001\000\000\000\003k:\377\377\377'$$ (FORMAT binary);
COPY one FROM PROGRAM $$printf 'PGCOPY\n\377\r\n\000\000\000\000\000\000\000\000\000\000\001\000\000\000\003k:\000\377\377'$$ (FORMAT binary);
COPY k FROM PROGRAM $$printf 'PGCOPY\n\377\r\n\000\000\000\000\000\000\000\000\000\000\001\000\000\000\002\303\050\377\377'$$ (FORMAT binary);
SELECT * FROM one;
\set VERBOSITY default

-- large values: kept, compared and hashed, never a crash
CREATE TEMP TABLE big (i identifier);
INSERT INTO big VALUES (identifier('k', repeat('0123456789abcdef', 2 * 1024 * 1024))), (identifier('k', repeat('0123456789abcdef', 2 * 1024 * 1024) || 'x'));
INSERT INTO big SELECT identifier('k', string_agg(md5(g::text), '')) FROM generate_series(1, 100000) g;
SELECT octet_length(i::text), kind(i), length(value(i)) FROM big;
SELECT count(*) FROM big a JOIN big b ON a.i = b.i;
SELECT count(*) FROM big a JOIN big b ON a.i < b.i;
SELECT count(DISTINCT identifier_hash(i)) FROM big;
SELECT count(*) FROM big WHERE canonical(i) IS NULL;
