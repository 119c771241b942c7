-- What the extension consists of, and what PUBLIC may do with it.
-- A schema that somebody else made is not taken over.
\set SHOW_CONTEXT never
CREATE SCHEMA cdp;
CREATE EXTENSION cdp;
DROP SCHEMA cdp;
CREATE EXTENSION cdp;
SET client_min_messages = warning;

-- Its members.
SELECT pg_describe_object(classid, objid, objsubid) COLLATE "C" AS member
FROM pg_depend
WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
  AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'cdp')
  -- not types of tables' rows and of arrays, which are members in some versions only
  AND NOT EXISTS (SELECT FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
	WHERE classid = 'pg_type'::regclass AND t.oid = objid AND (c.relkind <> 'c' OR t.typcategory = 'A'))
ORDER BY 1;

-- Everything is in its own schema.
SELECT pg_describe_object(classid, objid, objsubid) COLLATE "C" AS stray
FROM pg_depend d
LEFT JOIN LATERAL pg_identify_object(classid, objid, objsubid) i ON true
WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
  AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'cdp')
  AND i.schema IS NOT NULL AND i.schema <> 'cdp'
ORDER BY 1;

-- What PUBLIC may call: input, output and comparison of types, nothing that writes.
SELECT p.oid::regprocedure AS public_may_execute, p.provolatile
FROM pg_proc p
WHERE p.pronamespace = 'cdp'::regnamespace AND has_function_privilege('public', p.oid, 'EXECUTE')
ORDER BY p.oid::regprocedure::text COLLATE "C";

-- What PUBLIC may read or write: nothing.
SELECT c.oid::regclass AS relation, p AS public_may
FROM pg_class c, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) p
WHERE c.relnamespace = 'cdp'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')
  AND has_table_privilege('public', c.oid, p)
ORDER BY 1, 2;
SELECT c.oid::regclass AS sequence
FROM pg_class c
WHERE c.relnamespace = 'cdp'::regnamespace
  AND CASE c.relkind WHEN 'S' THEN has_sequence_privilege('public', c.oid, 'USAGE, SELECT, UPDATE') END
ORDER BY 1;

-- Functions that are not in C pin their search_path, or were bound when they were created.
SELECT p.oid::regprocedure AS unpinned
FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
WHERE p.pronamespace = 'cdp'::regnamespace AND l.lanname NOT IN ('c', 'internal')
  AND p.prosqlbody IS NULL
  AND NOT EXISTS (SELECT FROM unnest(p.proconfig) c WHERE c LIKE 'search_path=pg_catalog%pg_temp')
ORDER BY 1;
SELECT p.oid::regprocedure AS security_definer, p.proconfig
FROM pg_proc p
WHERE p.pronamespace = 'cdp'::regnamespace AND p.prosecdef
ORDER BY p.oid::regprocedure::text COLLATE "C";

-- Everything has a comment, but support functions of types and the parts of verify().
SELECT pg_describe_object(d.classid, d.objid, 0) COLLATE "C" AS without_comment
FROM pg_depend d
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
  AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'cdp')
  AND (d.classid = 'pg_class'::regclass AND
	   (SELECT relkind IN ('r', 'p', 'v') AND NOT relispartition FROM pg_class WHERE oid = d.objid)
	   OR d.classid = 'pg_proc'::regclass AND
	   NOT EXISTS (SELECT FROM pg_type t WHERE d.objid IN (t.typinput, t.typoutput, t.typreceive, t.typsend)) AND
	   NOT EXISTS (SELECT FROM pg_proc v WHERE v.oid = d.objid AND v.proname LIKE 'verify\_%') AND
	   NOT EXISTS (SELECT FROM pg_operator o WHERE d.objid = o.oprcode) AND
	   NOT EXISTS (SELECT FROM pg_amproc a WHERE d.objid = a.amproc) AND
	   NOT EXISTS (SELECT FROM pg_cast c WHERE d.objid = c.castfunc) AND
	   NOT EXISTS (SELECT FROM pg_aggregate a WHERE d.objid IN (a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggserialfn, a.aggdeserialfn))
	   OR d.classid IN ('pg_type'::regclass) AND
	   (SELECT typtype = 'b' AND typelem = 0 FROM pg_type WHERE oid = d.objid))
  AND obj_description(d.objid, (SELECT relname FROM pg_class WHERE oid = d.classid)) IS NULL
ORDER BY 1;

-- The clock is a superuser's.
CREATE ROLE regress_extension_user;
SET ROLE regress_extension_user;
SET cdp.now = '2026-01-01';
SELECT count(*) FROM cdp.events;
SELECT cdp.track('x', user_id => 'y');
RESET ROLE;
DROP ROLE regress_extension_user;

-- It goes without a trace.
DROP EXTENSION cdp CASCADE;
SELECT count(*) FROM pg_namespace WHERE nspname = 'cdp';
