-- Phone numbers: E.164.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET search_path = cdp, public;

-- with and without libphonenumber
SELECT v, normalise('phone', v) FROM unnest(ARRAY['+4930901820', ' +49 (30) 90-18.20 ', '+1 650-253-0000', '', '+', '0', 'abc', '030901820', '+49', '+0301234567', '+49+30901820', '+1234567890123456789']) v;
SELECT normalise_phone('+49 30 901820'), normalise_phone('+49 30 901820', 'FR'), normalise_phone(NULL, 'DE'), normalise_phone('0', 'ZZ');
SELECT normalise_phone('030 901820', 'Germany');
SELECT normalise_phone('030 901820', '');
SELECT normaliser, library, version IS NOT NULL AS has_version FROM normaliser_versions() ORDER BY normaliser;

SELECT version IS NULL AS missing FROM normaliser_versions() WHERE normaliser = 'phone' \gset library_
\if :library_missing
\echo SKIPPED: built without libphonenumber, only E.164 is read
\quit
\endif
-- phones: E.164; national numbers only where a region is given
SELECT v, normalise('phone', v) FROM unnest(ARRAY['+49 30 901820', '+49 (0) 30 901820', 'tel:+1-650-253-0000', '+1 650 253 0000 ext. 12', '+1 800 FLOWERS', '030 901820', '0049 30 901820', '+', 'abc', '+999 123456', '']) v;
SELECT normalise_phone('030 901820', 'DE'), normalise_phone('030 901820', 'de'), normalise_phone('0049 30 901820', 'DE'), normalise_phone('030 901820'), normalise_phone('030 901820', NULL);
SELECT normalise_phone('030 901820', 'QQ');

-- every canonical form is its own, of numbers that cannot be too
SELECT normalise('phone', '+8800001234567');
SELECT count(*) AS wrong FROM (SELECT normalise('phone', '+' || cc || repeat('0', z) || '12345678901') AS once FROM generate_series(1, 999) cc, generate_series(0, 4) z) o
WHERE normalise('phone', once) IS DISTINCT FROM once;
