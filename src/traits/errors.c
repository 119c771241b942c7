/*-------------------------------------------------------------------------
 *
 * errors.c
 *	  What applying notes beside the states: errors and NULLs of expressions, which
 *	  keys declared traits have had with which JSON type, and which traits have missed
 *	  entries.
 *
 *	  The first two are collected in memory and written once a batch.  Neither is part
 *	  of the derived state: the counts say how often something was seen to
 *	  fail, a recomputation counts again.
 *
 * IDENTIFICATION
 *	  src/traits/errors.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "cdp.h"
#include "statement.h"
#include "traits/traitset.h"

/* Keys longer than this, or more than that many, are not remembered. */
#define MAX_KEY_LENGTH		255
#define MAX_KEYS			10000

/* Least time between two reports of NULLs by a worker, in ms. */
#define NULLS_INTERVAL		1000

typedef struct PendingError
{
	int32		trait_id;		/* key */
	int64		count;
	int64		nulls;
	int64		entry;
	char		message[256];
} PendingError;

typedef struct KnownKey
{
	uint64		hash;			/* key */
} KnownKey;

typedef struct PendingKey
{
	char	   *name;
	const char *type;
} PendingKey;

static HTAB *pending_errors = NULL;
static bool errors_pending = false; /* and not only NULLs */
static HTAB *known_keys = NULL;
static bool known_keys_valid = false;
static int64 known_keys_generation = -1;
static bool keys_written = false;	/* by this transaction */
static bool callbacks_registered = false;
static List *pending_keys = NIL;

/*
 * May an error of an expression be counted and passed over?  Not when it is
 * about the server or the session, and not the expression.
 */
bool
CdpSwallowError(ErrorData *edata)
{
	switch (ERRCODE_TO_CATEGORY(edata->sqlerrcode))
	{
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_SYSTEM_ERROR:
		case ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE:
			return false;
	}
	return edata->sqlerrcode != ERRCODE_DATA_CORRUPTED &&
		edata->sqlerrcode != ERRCODE_INDEX_CORRUPTED;
}

static bool
may_write(void)
{
	return !XactReadOnly && !IsInParallelMode() && !RecoveryInProgress() &&
		!CdpStatementsReadOnly;
}

static PendingError *
pending_error(int32 trait_id)
{
	PendingError *error;
	bool		found;

	if (pending_errors == NULL)
	{
		HASHCTL		ctl = {0};

		ctl.keysize = sizeof(int32);
		ctl.entrysize = sizeof(PendingError);
		pending_errors = hash_create("cdp trait errors", 16, &ctl,
									 HASH_ELEM | HASH_BLOBS);
	}
	error = (PendingError *) hash_search(pending_errors, &trait_id, HASH_ENTER,
										 &found);
	if (!found)
	{
		memset(error, 0, sizeof(PendingError));
		error->trait_id = trait_id;
	}
	return error;
}

/* Values that were NULL. */
void
CdpTraitNullsCount(int32 trait_id, int64 n)
{
	/* a read's own, which nobody could look up; or the applier counts it */
	if (trait_id < CDP_TRANSIENT_TRAIT && !CdpStatementsReadOnly)
		pending_error(trait_id)->nulls += n;
}

void
CdpTraitErrorCount(int32 trait_id, int64 entry, const char *message)
{
	PendingError *error;

	if (trait_id >= CDP_TRANSIENT_TRAIT || CdpStatementsReadOnly)
		return;
	error = pending_error(trait_id);
	error->count++;
	errors_pending = true;
	error->entry = entry;
	strlcpy(error->message, message ? message : "", sizeof(error->message));
	/* cut at a character, not inside one */
	error->message[pg_mbcliplen(error->message, strlen(error->message),
								sizeof(error->message) - 1)] = '\0';
}

void
CdpTraitErrorsFlush(void)
{
	HASH_SEQ_STATUS status;
	PendingError *error;
	CdpUserContext saved;

	if (pending_errors == NULL || hash_get_num_entries(pending_errors) == 0 ||
		!may_write())
		return;
	/* an applier that is busy does not write for every batch that has NULLs */
	if (MyBackendType == B_BG_WORKER && !errors_pending)
	{
		static TimestampTz last = 0;
		TimestampTz now = GetCurrentTimestamp();

		if (!TimestampDifferenceExceeds(last, now, NULLS_INTERVAL))
			return;
		last = now;
	}
	errors_pending = false;

	CdpBecomeOwner(&saved);
	SPI_connect();
	hash_seq_init(&status, pending_errors);
	while ((error = (PendingError *) hash_seq_search(&status)) != NULL)
	{
		Oid			types[] = {INT4OID, INT8OID, TEXTOID, INT8OID, INT8OID};
		Datum		values[5];
		char		nulls[5] = {' ', ' ', error->count ? ' ' : 'n',
		error->entry ? ' ' : 'n', ' '};

		values[0] = Int32GetDatum(error->trait_id);
		values[1] = Int64GetDatum(error->count);
		values[2] = CStringGetTextDatum(error->message);
		values[3] = Int64GetDatum(error->entry);
		values[4] = Int64GetDatum(error->nulls);
		(void) hash_search(pending_errors, &error->trait_id, HASH_REMOVE, NULL);
		if (SPI_execute_with_args("INSERT INTO cdp.trait_errors AS t"
								  " (trait_id, errors, nulls, last_error, last_entry, last_at)"
								  " VALUES ($1, $2, $5, $3, $4,"
								  " CASE WHEN $2 > 0 THEN cdp.clock() END)"
								  " ON CONFLICT (trait_id) DO UPDATE SET"
								  " errors = t.errors + excluded.errors,"
								  " nulls = t.nulls + excluded.nulls,"
								  " last_error = COALESCE(excluded.last_error, t.last_error),"
								  " last_entry = CASE WHEN excluded.errors > 0"
								  " THEN excluded.last_entry ELSE t.last_entry END,"
								  " last_at = COALESCE(excluded.last_at, t.last_at)",
								  5, types, values, nulls, false, 0) != SPI_OK_INSERT)
			elog(ERROR, "could not write errors of traits");
	}
	SPI_finish();
	CdpRestoreUser(&saved);
}

/*
 * Entries did not count for these traits because they are suspended.
 */
void
CdpTraitsMissedNote(int32 *ids, int n)
{
	static CdpStatement note = {
		"INSERT INTO cdp.trait_errors AS t (trait_id, errors, missed)"
		" SELECT u.id, 0, true FROM unnest($1) AS u(id)"
		" ON CONFLICT (trait_id) DO UPDATE SET missed = true WHERE NOT t.missed",
		{ "int4[]" }
	};
	Datum		arg = CdpInt4Array(ids, n);
	CdpUserContext saved;

	if (!may_write())
		return;
	CdpBecomeOwner(&saved);
	SPI_connect();
	CdpRun(&note, &arg, NULL);
	SPI_finish();
	CdpRestoreUser(&saved);
}

/*
 * Known keys are those in the table.  What this transaction has added is
 * forgotten when any part of it is rolled back.
 */
static void
forget_keys(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT)
		known_keys_valid = false;
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_COMMIT)
	{
		pending_keys = NIL;
		keys_written = false;
	}
}

static void
forget_keys_sub(SubXactEvent event, SubTransactionId mySubid,
				SubTransactionId parentSubid, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB && keys_written)
		known_keys_valid = false;
}

static uint64
key_hash(const char *name, int len, const char *type)
{
	return hash_bytes_extended((const unsigned char *) name, len,
							   (uint64) type[0] << 8 | (uint8) type[1]);
}

static void
load_keys(void)
{
	HASHCTL		ctl = {0};
	CdpUserContext saved;

	if (!callbacks_registered)
	{
		RegisterXactCallback(forget_keys, NULL);
		RegisterSubXactCallback(forget_keys_sub, NULL);
		callbacks_registered = true;
	}
	if (known_keys)
		hash_destroy(known_keys);
	known_keys = NULL;
	ctl.keysize = sizeof(uint64);
	ctl.entrysize = sizeof(KnownKey);
	known_keys = hash_create("cdp declared keys", 64, &ctl,
							 HASH_ELEM | HASH_BLOBS);

	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute("SELECT name, json_type FROM cdp.declared_keys",
					!may_write(), 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the keys of declared traits");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		char	   *name = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1);
		char	   *type = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2);
		uint64		hash = key_hash(name, strlen(name), type);

		(void) hash_search(known_keys, &hash, HASH_ENTER, NULL);
	}
	SPI_finish();
	CdpRestoreUser(&saved);
	known_keys_valid = true;
}

static const char *
json_type_of(const JsonbValue *v)
{
	switch (v->type)
	{
		case jbvString:
			return "string";
		case jbvNumeric:
			return "number";
		case jbvBool:
			return "boolean";
		case jbvBinary:
			return JsonContainerIsArray(v->val.binary.data) ? "array" : "object";
		default:
			return NULL;		/* null says nothing */
	}
}

void
CdpDeclaredKeysNote(CdpTraitSet *set, const CdpEntry *entry)
{
	JsonbIterator *it;
	JsonbValue	v;

	if (entry->properties == NULL || !JB_ROOT_IS_OBJECT(entry->properties) ||
		!may_write())
		return;
	if (!known_keys_valid || known_keys_generation != set->generation)
	{
		load_keys();
		known_keys_generation = set->generation;
	}

	it = JsonbIteratorInit(&entry->properties->root);
	(void) JsonbIteratorNext(&it, &v, true);
	while (JsonbIteratorNext(&it, &v, true) == WJB_KEY)
	{
		const char *key = v.val.string.val;
		int			keylen = v.val.string.len;
		const char *type;
		uint64		hash;
		bool		found;

		(void) JsonbIteratorNext(&it, &v, true);
		type = json_type_of(&v);
		if (type == NULL || keylen > MAX_KEY_LENGTH)
			continue;
		hash = key_hash(key, keylen, type);
		(void) hash_search(known_keys, &hash, HASH_FIND, &found);
		if (!found && hash_get_num_entries(known_keys) < MAX_KEYS)
		{
			MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
			PendingKey *pending = (PendingKey *) palloc(sizeof(PendingKey));

			pending->name = pnstrdup(key, keylen);
			pending->type = type;
			pending_keys = lappend(pending_keys, pending);
			MemoryContextSwitchTo(old);
			(void) hash_search(known_keys, &hash, HASH_ENTER, NULL);
		}
	}
}

void
CdpDeclaredKeysFlush(void)
{
	CdpUserContext saved;
	ListCell   *lc;
	List	   *keys = pending_keys;
	Oid			types[] = {TEXTOID, TEXTOID};

	if (keys == NIL)
		return;
	pending_keys = NIL;
	keys_written = true;
	CdpBecomeOwner(&saved);
	SPI_connect();
	foreach(lc, keys)
	{
		PendingKey *key = (PendingKey *) lfirst(lc);
		Datum		values[2];

		values[0] = CStringGetTextDatum(key->name);
		values[1] = CStringGetTextDatum(key->type);
		if (SPI_execute_with_args("INSERT INTO cdp.declared_keys (name, json_type)"
								  " VALUES ($1, $2) ON CONFLICT DO NOTHING",
								  2, types, values, NULL, false, 0) != SPI_OK_INSERT)
			elog(ERROR, "could not write the keys of declared traits");
	}
	SPI_finish();
	CdpRestoreUser(&saved);
	list_free(keys);
}
