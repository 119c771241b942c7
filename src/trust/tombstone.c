/*-------------------------------------------------------------------------
 *
 * tombstone.c
 *	  Identifiers that are not taken any more.
 *
 *	  A tombstone is the HMAC-SHA-256 of a canonical identifier under a random
 *	  key of the database, so the table tells nobody who was erased, and the
 *	  applier recognises them when they come again.
 *
 * IDENTIFICATION
 *	  src/trust/tombstone.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hmac.h"
#include "common/sha2.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"

#include "cdp.h"
#include "identity/graph.h"
#include "statement.h"
#include "trust/erase.h"

PG_FUNCTION_INFO_V1(cdp_tombstone_hash);
PG_FUNCTION_INFO_V1(cdp_erase);

#define KEY_LENGTH 32

static CdpStatement load_key = {
	"SELECT k.key FROM cdp.tombstone_keys k",
	{NULL}
};

/* who finds one made by another uses that */
static CdpStatement make_key = {
	"INSERT INTO cdp.tombstone_keys (key) VALUES ($1) ON CONFLICT DO NOTHING",
	{"bytea"}
};

static CdpStatement request = {
	"WITH request AS (INSERT INTO cdp.erasures (mode, reason, requested_by)"
	" VALUES ($1, $2, $3) RETURNING id)"
	" INSERT INTO cdp.erasure_identifiers (erasure, identifier)"
	" SELECT r.id, $4::cdp.identifier FROM request r RETURNING erasure",
	{"text", "text", "text", "text"}
};

static CdpStatement name_request = {
	"UPDATE cdp.erasures r SET message_id = $2, anonymous = CASE WHEN r.mode = 'anonymise'"
	" THEN ('anonymous_id:' || gen_random_uuid())::cdp.identifier END WHERE r.id = $1",
	{"int8", "text"}
};

static CdpStatement add_tombstones = {
	"INSERT INTO cdp.tombstones (hash, erasure, at)"
	" SELECT DISTINCT u.hash, $2, $3 FROM unnest($1) AS u (hash)"
	" ON CONFLICT (hash) DO NOTHING",
	{"bytea[]", "int8", "timestamptz"}
};

static CdpStatement find_tombstones = {
	"SELECT u.i FROM (SELECT unnest($1) AS i, unnest($2) AS hash) AS u"
	" JOIN cdp.tombstones t ON t.hash = u.hash",
	{"int4[]", "bytea[]"},
	"tombstones"
};

static CdpStatement count_refused = {
	"UPDATE cdp.tombstones t SET refused = t.refused + u.n, last_refused_at = $2"
	" FROM (SELECT h.hash, count(*) AS n FROM unnest($1) AS h (hash) GROUP BY h.hash) AS u"
	" WHERE t.hash = u.hash",
	{"bytea[]", "timestamptz"}
};

static CdpStatement delete_entries = {
	"DELETE FROM cdp.events e USING"
	" (SELECT unnest($1) AS xid, unnest($2) AS id, unnest($3) AS received_at) AS u"
	" WHERE e.xid = u.xid AND e.id = u.id AND e.received_at = u.received_at",
	{"int8[]", "int8[]", "timestamptz[]"}
};

CdpEraseMode
CdpEraseModeFromText(const char *mode, int len)
{
	static const struct
	{
		const char *name;
		CdpEraseMode mode;
	} modes[] = {
		{ "erase", CDP_ERASE_ALL },
		{ "anonymise", CDP_ERASE_ANONYMISE },
		{ "suppress", CDP_ERASE_SUPPRESS }
	};

	for (int i = 0; i < lengthof(modes); i++)
		if (strlen(modes[i].name) == len && memcmp(modes[i].name, mode, len) == 0)
			return modes[i].mode;
	return CDP_ERASE_UNKNOWN;
}

/*
 * The key, made when there is none.
 */
static bytea *
the_key(void)
{
	bytea	   *key;
	Datum		arg;

	if (CdpRunHere(&load_key, NULL, NULL) == 0)
	{
		key = palloc(VARHDRSZ + KEY_LENGTH);
		SET_VARSIZE(key, VARHDRSZ + KEY_LENGTH);
		if (!pg_strong_random(VARDATA(key), KEY_LENGTH))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random values")));
		arg = PointerGetDatum(key);
		CdpRunHere(&make_key, &arg, NULL);
		CdpRunHere(&load_key, NULL, NULL);
	}
	if (SPI_processed != 1)
		elog(ERROR, "the key of the tombstones is not there");
	return (bytea *) CdpCellVarlena(0, 1, CurrentMemoryContext);
}

static Datum
hash_with(pg_hmac_ctx *hmac, const bytea *key, const CdpIdentifier *canonical)
{
	bytea	   *hash = palloc(VARHDRSZ + PG_SHA256_DIGEST_LENGTH);

	SET_VARSIZE(hash, VARHDRSZ + PG_SHA256_DIGEST_LENGTH);
	if (pg_hmac_init(hmac, (const uint8 *) VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key)) < 0 ||
		pg_hmac_update(hmac, (const uint8 *) VARDATA_ANY(canonical),
					   VARSIZE_ANY_EXHDR(canonical)) < 0 ||
		pg_hmac_final(hmac, (uint8 *) VARDATA(hash), PG_SHA256_DIGEST_LENGTH) < 0)
		elog(ERROR, "could not compute an HMAC: %s", pg_hmac_error(hmac));
	return PointerGetDatum(hash);
}

static pg_hmac_ctx *
make_hmac(void)
{
	pg_hmac_ctx *hmac = pg_hmac_create(PG_SHA256);

	if (hmac == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	return hmac;
}

Datum
CdpTombstoneHash(const CdpIdentifier *canonical)
{
	bytea	   *key = the_key();
	pg_hmac_ctx *hmac = make_hmac();
	Datum		hash = hash_with(hmac, key, canonical);

	pg_hmac_free(hmac);
	return hash;
}

void
CdpTombstonesAdd(int64 erasure, CdpIdentifier **canonical, int n, TimestampTz at)
{
	Datum	   *hashes = palloc(sizeof(Datum) * Max(n, 1));
	bytea	   *key;
	pg_hmac_ctx *hmac;
	Datum		args[3];

	if (n == 0)
		return;
	key = the_key();
	hmac = make_hmac();
	for (int i = 0; i < n; i++)
		hashes[i] = hash_with(hmac, key, canonical[i]);
	pg_hmac_free(hmac);
	args[0] = CdpVarlenaArray(hashes, NULL, n, BYTEAOID);
	args[1] = Int64GetDatum(erasure);
	args[2] = TimestampTzGetDatum(at);
	CdpRunHere(&add_tombstones, args, NULL);
}

/*
 * How many identifiers of persons can an entry have?  One that does not count
 * has no candidates.
 */
static int
max_names(const CdpEntry *entry)
{
	if (entry->reject_reason == NULL)
		return entry->ncandidates;
	return entry->identifiers == NULL ? 0 :
		ArrayGetNItems(ARR_NDIM(entry->identifiers), ARR_DIMS(entry->identifiers));
}

/*
 * They, in canonical form, palloc'd.
 */
static int
names_of(CdpKindSet *kinds, CdpEntry *entry, CdpIdentifier ***names)
{
	int			max = max_names(entry);
	Datum	   *elems;
	bool	   *nulls;
	int			n = 0;

	*names = palloc(sizeof(CdpIdentifier *) * Max(max, 1));
	if (entry->reject_reason == NULL)
	{
		for (n = 0; n < max; n++)
			(*names)[n] = CdpGraphCandidate(entry, n);
		return n;
	}
	if (max == 0)
		return 0;
	deconstruct_array(entry->identifiers, ARR_ELEMTYPE(entry->identifiers), -1, false,
					  TYPALIGN_INT, &elems, &nulls, &max);
	for (int i = 0; i < max; i++)
	{
		CdpKind	   *kind;

		if (!nulls[i] &&
			CdpCanonicalise(kinds, DatumGetIdentifierPP(elems[i]), &(*names)[n], &kind) !=
			CDP_CANONICAL_ACCOUNT && (*names)[n] != NULL)
			n++;
	}
	return n;
}

/*
 * Look the identifiers of the entries up, each once for an entry, and delete
 * the entries that have one with a tombstone from the log.
 */
int
CdpTombstonesRefuse(CdpKindSet *kinds, CdpEntry *entries, int n, bool *refused, TimestampTz at)
{
	bytea	   *key;
	pg_hmac_ctx *hmac;
	int32	   *places;
	int32	   *whose;
	Datum	   *hashes;
	Datum	   *found;
	int64	   *xids;
	int64	   *ids;
	TimestampTz *received;
	Datum		args[3];
	int			max = 0;
	int			nasked = 0;
	int			nrefused = 0;

	memset(refused, 0, sizeof(bool) * n);
	if (CdpTableIsVoid("tombstones"))
		return 0;
	for (int i = 0; i < n; i++)
		max += max_names(&entries[i]);
	if (max == 0)
		return 0;
	places = palloc_extended(sizeof(int32) * max, MCXT_ALLOC_HUGE);
	whose = palloc_extended(sizeof(int32) * max, MCXT_ALLOC_HUGE);
	hashes = palloc_extended(sizeof(Datum) * max, MCXT_ALLOC_HUGE);
	key = the_key();
	hmac = make_hmac();
	for (int i = 0; i < n; i++)
	{
		CdpIdentifier **names;
		int			nnames = names_of(kinds, &entries[i], &names);

		for (int j = 0; j < nnames; j++)
		{
			CHECK_FOR_INTERRUPTS();
			places[nasked] = nasked;
			whose[nasked] = i;
			hashes[nasked++] = hash_with(hmac, key, names[j]);
		}
		pfree(names);
	}
	pg_hmac_free(hmac);

	args[0] = CdpInt4Array(places, nasked);
	args[1] = CdpVarlenaArray(hashes, NULL, nasked, BYTEAOID);
	CdpRunHere(&find_tombstones, args, NULL);
	if (SPI_processed == 0)
	{
		if (SPI_tuptable != NULL)
			SPI_freetuptable(SPI_tuptable);
		return 0;
	}
	{
		bool	   *hit = palloc0(sizeof(bool) * nasked);
		int			nhashes = nasked;
		bool		isnull;

		for (uint64 r = 0; r < SPI_processed; r++)
			hit[DatumGetInt32(CdpCell(r, 1, &isnull))] = true;
		SPI_freetuptable(SPI_tuptable);
		found = palloc(sizeof(Datum) * n);
		nasked = 0;
		for (int place = 0; place < nhashes; place++)
			if (hit[place] && !refused[whose[place]])
			{
				found[nasked++] = hashes[place];
				refused[whose[place]] = true;
			}
	}
	args[0] = CdpVarlenaArray(found, NULL, nasked, BYTEAOID);
	args[1] = TimestampTzGetDatum(at);
	CdpRunHere(&count_refused, args, NULL);

	xids = palloc(sizeof(int64) * nasked);
	ids = palloc(sizeof(int64) * nasked);
	received = palloc(sizeof(TimestampTz) * nasked);
	for (int i = 0; i < n; i++)
	{
		if (!refused[i])
			continue;
		xids[nrefused] = entries[i].xid;
		ids[nrefused] = entries[i].id;
		received[nrefused++] = entries[i].received_at;
	}
	args[0] = CdpInt8Array(xids, nrefused);
	args[1] = CdpInt8Array(ids, nrefused);
	args[2] = CdpTimestampArray(received, nrefused);
	CdpRunHere(&delete_entries, args, NULL);
	return nrefused;
}

/*
 * The canonical form of an identifier given in a call, or an error.
 */
static CdpIdentifier *
canonical_argument(const CdpIdentifier *identifier)
{
	CdpIdentifier *canonical = CdpCanonicalArgument(-1, identifier);

	if (canonical == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the identifier is blocked or cannot be normalised"),
				 errdetail("It names nobody.")));
	return canonical;
}

/*
 * cdp.tombstone_hash(identifier) returns bytea
 */
Datum
cdp_tombstone_hash(PG_FUNCTION_ARGS)
{
	MemoryContext caller = CurrentMemoryContext;
	CdpIdentifier *canonical = canonical_argument(PG_GETARG_IDENTIFIER_PP(0));
	CdpUserContext saved;
	bytea	   *hash;
	bytea	   *result;

	CdpBecomeOwner(&saved);
	SPI_connect();
	hash = DatumGetByteaPP(CdpTombstoneHash(canonical));
	result = MemoryContextAlloc(caller, VARSIZE_ANY(hash));
	memcpy(result, hash, VARSIZE_ANY(hash));
	SPI_finish();
	CdpRestoreUser(&saved);
	PG_RETURN_BYTEA_P(result);
}

/*
 * cdp.erase(identifier, mode, reason) returns text: log that the person is to
 * be erased; the entry's message id.
 */
Datum
cdp_erase(PG_FUNCTION_ARGS)
{
	CdpIdentifier *identifier;
	char	   *mode;
	CdpIdentifier *canonical;
	CdpUserContext saved;
	Datum		args[4];
	char		nulls[4] = {' ', ' ', ' ', ' '};
	int64		id;
	text	   *message_id;
	StringInfoData buf;
	Jsonb	   *properties;
	CdpKind	   *kind;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("identifier must not be null")));
	identifier = PG_GETARG_IDENTIFIER_PP(0);
	mode = PG_ARGISNULL(1) ? pstrdup("erase") : text_to_cstring(PG_GETARG_TEXT_PP(1));
	if (CdpEraseModeFromText(mode, strlen(mode)) == CDP_ERASE_UNKNOWN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid mode \"%s\"", mode),
				 errhint("Modes are erase, anonymise and suppress.")));
	canonical = canonical_argument(identifier);
	kind = CdpKindLookup(CdpKindSetGet(-1), VARDATA_ANY(identifier),
						 CdpIdentifierKindLength(identifier));
	if (kind->account)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("identifiers of kind \"%s\" name an account", kind->name),
				 errhint("Erase the people who belong to it.")));

	args[0] = CStringGetTextDatum(mode);
	args[1] = PG_ARGISNULL(2) ? (Datum) 0 : PG_GETARG_DATUM(2);
	nulls[1] = PG_ARGISNULL(2) ? 'n' : ' ';
	args[2] = CStringGetTextDatum(GetUserNameFromId(GetSessionUserId(), false));
	args[3] = PointerGetDatum(canonical);

	CdpBecomeOwner(&saved);
	SPI_connect();
	CdpRunHere(&request, args, nulls);
	id = CdpCellInt8(0, 1);
	SPI_finish();
	CdpRestoreUser(&saved);

	/* the log does not say whom it is about */
	initStringInfo(&buf);
	appendStringInfo(&buf, "{\"erasure\": %lld, \"author\": ", (long long) id);
	escape_json(&buf, GetUserNameFromId(GetSessionUserId(), false));
	appendStringInfoChar(&buf, '}');
	properties = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data)));
	message_id = CdpLogAppend("erase", NULL, NULL, properties, NULL, NULL, NULL,
							  cstring_to_text("manual"));
	CdpBecomeOwner(&saved);
	SPI_connect();
	args[0] = Int64GetDatum(id);
	args[1] = PointerGetDatum(message_id);
	CdpRunHere(&name_request, args, NULL);
	SPI_finish();
	CdpRestoreUser(&saved);
	PG_RETURN_TEXT_P(message_id);
}
