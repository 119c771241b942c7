/* sql/cdp--1.0.sql, assembled from the parts in sql/ */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION cdp" to load this file. \quit

SET LOCAL search_path TO pg_catalog, pg_temp;

CREATE SCHEMA cdp;
GRANT USAGE ON SCHEMA cdp TO PUBLIC;
COMMENT ON SCHEMA cdp IS 'customer data platform: log, identities, traits, segments, changes';
