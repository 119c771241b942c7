/*-------------------------------------------------------------------------
 *
 * erase.c
 *	  Somebody is erased, a step at a time.
 *
 *	  The request is an entry of the log (type erase) and a row of cdp.erasures,
 *	  which the batch that reads the entry marks as taken.  Then each step is a
 *	  transaction of its own:
 *
 *	  taken		the profile goes, whatever its size: its nodes own nothing any
 *				more, entries of others that name them are exchanged for such
 *				as do not, tombstones are set, and whoever subscribes is told.
 *				Which entries of the log are the person's is kept in
 *				cdp.erasure_entries, for nothing else leads to them now.
 *	  removing	these entries are deleted, some at a time, or made anonymous.
 *				Other copies of their messages may count now.
 *	  sweeping	the log is read from one end to the other for what no index
 *				leads to: copies that did not count, rejected and undone entries,
 *				values in the properties of others.
 *
 *	  Tables are as a log without the person would have them once the last
 *	  step is done.  After a crash the next step is made by whoever applies
 *	  next.
 *
 * IDENTIFICATION
 *	  src/apply/erase.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "apply/batch.h"
#include "cdp.h"
#include "statement.h"
#include "trust/erase.h"

/* What is worked on at a time. */
#define CHUNK_PIECES 40 /* rows of cdp.erasure_entries, up to 128 entries each */
#define CHUNK_PAGES 2000 /* of the log, over all partitions */

/* A row of cdp.erasures that is not done, with its identifiers. */
typedef struct Erasure
{
	int64		id;
	CdpEraseMode mode;
	bool		removing; /* taken when neither */
	bool		sweeping;
	int64		position;
	int64		profile;
	int			n;
	CdpIdentifier **identifiers;
	bool	   *shared;
	CdpIdentifier *anonymous; /* under which events stay, mode anonymise */
	CdpScrubber *scrubber;
} Erasure;

/* Rows of the log that are to go, or to be changed. */
typedef struct Rows
{
	CdpBatch   *batch;
	CdpCursorSet *applied;
	Erasure	   *erasure;
	List	   *exchanged; /* CdpReadings *; of those that go there is no is */
} Rows;

static CdpStatement take_request = {
	"UPDATE cdp.erasures r SET state = 'taken'"
	" WHERE r.source = $1 AND r.message_id = $2 AND r.state = 'requested'",
	{"text", "text"}
};

static CdpStatement add_shared_identifiers = {
	"INSERT INTO cdp.erasure_identifiers AS i (erasure, identifier, shared)"
	" SELECT $1, u.name::cdp.identifier, u.shared"
	" FROM (SELECT unnest($2) AS name, unnest($3) AS shared) AS u"
	" ON CONFLICT (erasure, identifier) DO UPDATE SET shared = excluded.shared",
	{"int8", "text[]", "bool[]"}
};

static CdpStatement clear_identifiers = {
	"DELETE FROM cdp.erasure_identifiers i WHERE i.erasure = $1",
	{"int8"}
};

static CdpStatement load_erasure = {
	"SELECT r.id, r.mode, r.state, r.position, coalesce(r.profile_id, 0), r.anonymous"
	" FROM cdp.erasures r WHERE r.state NOT IN ('requested', 'done')"
	" AND EXISTS (SELECT FROM cdp.erasure_identifiers i WHERE i.erasure = r.id)"
	" ORDER BY r.id LIMIT 1",
	{NULL}
};

static CdpStatement load_identifiers = {
	"SELECT i.identifier, i.shared FROM cdp.erasure_identifiers i WHERE i.erasure = $1"
	" ORDER BY i.identifier",
	{"int8"}
};

static CdpStatement profile_nodes = {
	"SELECT j.node_id, j.identifier, j.profile_id FROM cdp.identities i"
	" JOIN cdp.identities j ON j.profile_id = i.profile_id"
	" WHERE i.identifier = $1::cdp.identifier ORDER BY j.node_id",
	{"text"}
};

/* others whose entries may name them, or that their entries name */
static CdpStatement neighbours = {
	"SELECT x.node FROM ("
	" SELECT l.b AS node FROM (SELECT unnest($1) AS node) AS u"
	" CROSS JOIN LATERAL (SELECT l.b FROM cdp.links l WHERE l.a = u.node OFFSET 0) AS l"
	" UNION SELECT l.a FROM (SELECT unnest($1) AS node) AS u"
	" CROSS JOIN LATERAL (SELECT l.a FROM cdp.links l WHERE l.b = u.node OFFSET 0) AS l"
	" UNION SELECT d.b FROM (SELECT unnest($1) AS node) AS u JOIN cdp.decisions d ON d.a = u.node"
	" UNION SELECT d.a FROM (SELECT unnest($1) AS node) AS u JOIN cdp.decisions d ON d.b = u.node) x"
	" WHERE x.node IS NOT NULL AND x.node <> ALL ($1) ORDER BY 1",
	{"int8[]"}
};

static CdpStatement decisions_of = {
	"SELECT " CDP_EVENTS_COLUMNS " FROM (SELECT DISTINCT d.xid, d.entry"
	" FROM (SELECT unnest($1) AS node) AS u JOIN cdp.decisions d ON d.a = u.node OR d.b = u.node"
	" WHERE d.type <> 'undo') d"
	" JOIN cdp.events e ON e.xid = d.xid AND e.id = d.entry",
	{"int8[]"},
	"decisions"
};

static CdpStatement owned_rows = {
	"SELECT " CDP_EVENTS_COLUMNS
	" FROM (SELECT unnest($1) AS owner) AS u"
	" CROSS JOIN LATERAL cdp.owned_entries_of(u.owner) n"
	" JOIN cdp.events e ON e.xid = n.xid AND e.id = n.entry"
	" AND e.received_at = n.received_at",
	{"int8[]"}
};

/* what the nodes own is remembered here, and nowhere else any more */
static CdpStatement remember_entries = {
	"WITH pieces AS (DELETE FROM cdp.entry_pieces p USING unnest($2) AS u (node)"
	" WHERE p.owner = u.node RETURNING p.refs),"
	" withheld AS (DELETE FROM cdp.withheld_entries w USING unnest($2) AS u (node)"
	" WHERE w.owner = u.node RETURNING w.entry, w.xid, w.received_at)"
	" INSERT INTO cdp.erasure_entries (erasure, refs, entry, xid, received_at)"
	" SELECT $1, p.refs, NULL, NULL, NULL FROM pieces p"
	" UNION ALL SELECT $1, NULL, w.entry, w.xid, w.received_at FROM withheld w"
	" UNION ALL SELECT $1, i.recent, NULL, NULL, NULL FROM cdp.identities i"
	" JOIN unnest($2) AS u (node) ON i.node_id = u.node WHERE i.recent IS NOT NULL",
	{"int8", "int8[]"}
};

static CdpStatement forget_recent = {
	"UPDATE cdp.identities i SET recent = NULL FROM unnest($1) AS u (node)"
	" WHERE i.node_id = u.node AND i.recent IS NOT NULL",
	{"int8[]"}
};

static CdpStatement next_entries = {
	"WITH taken AS (DELETE FROM cdp.erasure_entries r WHERE r.ctid = ANY (ARRAY("
	" SELECT t.ctid FROM cdp.erasure_entries t WHERE t.erasure = $1 LIMIT $2))"
	" RETURNING r.refs, r.entry, r.xid, r.received_at)"
	" SELECT " CDP_EVENTS_COLUMNS " FROM ("
	" SELECT u.entry, u.xid, u.received_at FROM taken t"
	" CROSS JOIN LATERAL cdp.unpack_entries(t.refs) u"
	" UNION ALL SELECT t.entry, t.xid, t.received_at FROM taken t WHERE t.entry IS NOT NULL) n"
	" JOIN cdp.events e ON e.xid = n.xid AND e.id = n.entry AND e.received_at = n.received_at",
	{"int8", "int8"}
};

static CdpStatement more_entries = {
	"SELECT 1 FROM cdp.erasure_entries t WHERE t.erasure = $1 LIMIT 1",
	{"int8"}
};

static CdpStatement log_pages = {
	"SELECT count(*), coalesce(max(pg_relation_size(c.oid) / current_setting('block_size')::int), 0)"
	" FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
	" WHERE i.inhparent = 'cdp.events'::regclass",
	{NULL}
};

/* the same pages of all partitions */
static CdpStatement sweep_pages = {
	"SELECT " CDP_EVENTS_COLUMNS " FROM cdp.events e"
	" WHERE e.ctid >= ('(' || $1 || ',0)')::tid AND e.ctid < ('(' || $2 || ',0)')::tid"
	" AND cdp.erasure_touches(e.identifiers, e.event, e.properties, e.context)",
	{"int8", "int8"}
};

static CdpStatement delete_rows = {
	"DELETE FROM cdp.events e USING"
	" (SELECT unnest($1) AS xid, unnest($2) AS id, unnest($3) AS received_at) AS u"
	" WHERE e.xid = u.xid AND e.id = u.id AND e.received_at = u.received_at",
	{"int8[]", "int8[]", "timestamptz[]"}
};

static CdpStatement change_rows = {
	"UPDATE cdp.events e SET event = u.event, identifiers = u.identifiers::cdp.identifier[],"
	" properties = u.properties, context = u.context"
	" FROM (SELECT unnest($1) AS xid, unnest($2) AS id, unnest($3) AS received_at,"
	" unnest($4) AS event, unnest($5) AS identifiers, unnest($6) AS properties,"
	" unnest($7) AS context) AS u"
	" WHERE e.xid = u.xid AND e.id = u.id AND e.received_at = u.received_at",
	{"int8[]", "int8[]", "timestamptz[]", "text[]", "text[]", "jsonb[]", "jsonb[]"}
};

static CdpStatement forget_rejected = {
	"WITH i AS (DELETE FROM cdp.isolated i USING unnest($1) AS u (entry) WHERE i.entry = u.entry)"
	" DELETE FROM cdp.rejected r USING unnest($1) AS u (entry) WHERE r.entry = u.entry",
	{"int8[]"},
	"rejected"
};

static CdpStatement forget_attached = {
	"DELETE FROM cdp.attached_rows a USING unnest($1) AS u (entry) WHERE a.entry = u.entry",
	{"int8[]"},
	"attached_rows"
};

static CdpStatement forget_history = {
	"DELETE FROM cdp.history_entries h USING"
	" (SELECT unnest($1) AS hash, unnest($2) AS entry) AS u"
	" WHERE h.hash = u.hash AND h.entry = u.entry",
	{"int8[]", "int8[]"},
	"history_entries"
};

static CdpStatement load_personal = {
	"SELECT k.key, k.personal FROM cdp.personal_keys k",
	{NULL},
	"personal_keys"
};

/*
 * The rest, table by table; the plans are made for one look each.
 */
static CdpStatement forget_nodes = {
	"SELECT cdp.erasure_forget($1, $2, $3, $4, $5)",
	{"int8", "int8[]", "int8[]", "int4", "int8"}
};

static CdpStatement forget_values = {
	"SELECT cdp.erasure_forget_values($1)",
	{"int8"}
};

static CdpStatement set_state = {
	"UPDATE cdp.erasures r SET state = $2, position = $3,"
	" started_at = coalesce(r.started_at, cdp.clock()),"
	" done_at = CASE WHEN $2 = 'done' THEN cdp.clock() END,"
	" anonymous = CASE WHEN $2 <> 'done' THEN r.anonymous END WHERE r.id = $1",
	{"int8", "text", "int8"}
};

static CdpStatement count_removed = {
	"UPDATE cdp.erasures r SET removed = r.removed || jsonb_build_object($2,"
	" coalesce((r.removed ->> $2)::bigint, 0) + $3) WHERE r.id = $1",
	{"int8", "text", "int8"}
};

static CdpStatement set_profile = {
	"UPDATE cdp.erasures r SET profile_id = $2, hashes = $3, shared = $4 WHERE r.id = $1",
	{"int8", "int8", "bytea[]", "bytea[]"}
};

static CdpStatement set_change = {
	"UPDATE cdp.erasures r SET epoch = $2, seq = $3,"
	" waiting = ARRAY(SELECT s.name FROM cdp.subscriptions s"
	" WHERE s.entities IS NULL OR 'profile' = ANY (s.entities) ORDER BY 1) WHERE r.id = $1",
	{"int8", "int4", "int8"}
};

static CdpStatement acknowledged = {
	"SELECT cdp.erased_acknowledged()",
	{NULL}
};

static void
count_rows(Erasure *erasure, const char *what, int64 n)
{
	Datum		args[3];

	if (n == 0)
		return;
	args[0] = Int64GetDatum(erasure->id);
	args[1] = CStringGetTextDatum(what);
	args[2] = Int64GetDatum(n);
	CdpRunHere(&count_removed, args, NULL);
}

static void
to_state(Erasure *erasure, const char *state, int64 position)
{
	Datum		args[3];

	args[0] = Int64GetDatum(erasure->id);
	args[1] = CStringGetTextDatum(state);
	args[2] = Int64GetDatum(position);
	CdpRunHere(&set_state, args, NULL);
}

/* ---- requests ---- */

/*
 * An entry of type erase: whom it is about is kept in cdp.erasures, so that the
 * log does not say it.  What was not made by cdp.erase() does nothing.
 */
void
CdpErasuresTake(CdpBatch *batch)
{
	for (int i = 0; i < batch->nentries; i++)
	{
		CdpEntry   *entry = &batch->entries[i];
		Datum		args[2];

		if (entry->type != CDP_ENTRY_ERASE || entry->identifiers == NULL ||
			ARR_NDIM(entry->identifiers) > 0)
			continue;
		args[0] = PointerGetDatum(entry->source);
		args[1] = PointerGetDatum(CdpEntryMessageId(entry));
		if (CdpRunHere(&take_request, args, NULL) > 0)
			batch->applier.erasures = true;
	}
}

void
CdpErasedRefuse(CdpBatch *batch)
{
	bool	   *refused;

	if (batch->nentries == 0)
		return;
	refused = palloc(sizeof(bool) * batch->nentries);
	if (CdpTombstonesRefuse(batch->entries, batch->nentries, refused,
							batch->applier.clock) > 0)
	{
		for (int i = 0; i < batch->nentries; i++)
		{
			CdpEntry   *entry = &batch->entries[i];

			if (!refused[i])
				continue;
			/* no SQLSTATE: it is not put aside with its contents */
			entry->reject_reason = "erased";
			entry->reject_sqlstate = 0;
			entry->ncandidates = 0;
			entry->naccounts = 0;
		}
	}
	pfree(refused);
}

/* ---- rows of the log ---- */

/*
 * Does the entry belong to the person, that is, has it an owner among the
 * identifiers?  As far as others do not have it, too, or any.
 */
static bool
is_owned(Erasure *erasure, CdpEntry *entry, bool shared_too)
{
	CdpIdentifier *owner = CdpGraphOwnerOf(entry);
	bool		shared;

	return owner != NULL && CdpScrubberHas(erasure->scrubber, owner, &shared) &&
		(shared_too || !shared);
}

static bool
names_erased(Erasure *erasure, CdpEntry *entry)
{
	for (int i = 0; i < entry->ncandidates; i++)
	{
		bool		shared;

		if (CdpScrubberHas(erasure->scrubber, CdpGraphCandidate(entry, i), &shared) && !shared)
			return true;
	}
	return false;
}

/*
 * The identifiers of somebody nobody knows, but for accounts.
 */
static ArrayType *
anonymous(Rows *rows, ArrayType *identifiers)
{
	Datum	   *elems;
	bool	   *nulls;
	int			n;
	int			kept = 1;
	Datum	   *result;

	deconstruct_array(identifiers, ARR_ELEMTYPE(identifiers), -1, false, TYPALIGN_INT,
					  &elems, &nulls, &n);
	result = palloc(sizeof(Datum) * (n + 1));
	result[0] = PointerGetDatum(rows->erasure->anonymous);
	for (int i = 0; i < n; i++)
	{
		CdpIdentifier *canonical;
		CdpKind	   *kind;

		if (!nulls[i] &&
			CdpCanonicalise(rows->batch->kinds, DatumGetIdentifierPP(elems[i]), &canonical,
							&kind) == CDP_CANONICAL_ACCOUNT)
			result[kept++] = elems[i];
	}
	return construct_array(result, kept, ARR_ELEMTYPE(identifiers), -1, false, TYPALIGN_INT);
}

typedef enum Fate
{
	FATE_STAY,
	FATE_CHANGE,
	FATE_GO
} Fate;

/*
 * What becomes of a row?  values are changed in place.
 */
static Fate
judge_row(Rows *rows, CdpEntry *entry, bool owned, Datum *values, bool *isnull)
{
	CdpScrubber *scrubber = rows->erasure->scrubber;
	bool		changed = false;

	if (owned)
		return FATE_GO;
	if (CDP_ENTRY_DECIDES(entry->type) && names_erased(rows->erasure, entry))
		return FATE_GO;
	if (!isnull[CDP_EVENTS_IDENTIFIERS])
	{
		ArrayType  *kept = CdpScrubIdentifiers(scrubber,
											  DatumGetArrayTypeP(values[CDP_EVENTS_IDENTIFIERS]));

		if (kept != NULL)
		{
			/* it was about nobody else, though it could not be applied */
			if (ARR_NDIM(kept) == 0)
				return FATE_GO;
			values[CDP_EVENTS_IDENTIFIERS] = PointerGetDatum(kept);
			changed = true;
		}
	}
	if (!isnull[CDP_EVENTS_EVENT])
	{
		text	   *event = CdpScrubText(scrubber, DatumGetTextPP(values[CDP_EVENTS_EVENT]));

		if (event != NULL)
		{
			values[CDP_EVENTS_EVENT] = PointerGetDatum(event);
			changed = true;
		}
	}
	for (int i = CDP_EVENTS_PROPERTIES; i <= CDP_EVENTS_CONTEXT; i++)
	{
		Jsonb	   *kept = isnull[i] ? NULL : CdpScrubJsonb(scrubber, DatumGetJsonbP(values[i]));

		if (kept != NULL)
		{
			values[i] = JsonbPGetDatum(kept);
			changed = true;
		}
	}
	return changed ? FATE_CHANGE : FATE_STAY;
}

static int
number_order(const void *a, const void *b)
{
	int64		x = *(const int64 *) a;
	int64		y = *(const int64 *) b;

	return x < y ? -1 : x > y ? 1 :
								0;
}

static int
by_number(const ListCell *a, const ListCell *b)
{
	return number_order(&((CdpEntry *) lfirst(a))->id, &((CdpEntry *) lfirst(b))->id);
}

static int
by_entry(const ListCell *a, const ListCell *b)
{
	return number_order(&((CdpReadings *) lfirst(a))->was.id, &((CdpReadings *) lfirst(b))->was.id);
}

static void
write_changed(List *changed)
{
	int			n = list_length(changed);
	int64	   *xids = palloc(sizeof(int64) * Max(n, 1));
	int64	   *ids = palloc(sizeof(int64) * Max(n, 1));
	TimestampTz *received = palloc(sizeof(TimestampTz) * Max(n, 1));
	Datum	   *columns[4];
	bool	   *nulls[4];
	static const int attributes[4] = { CDP_EVENTS_EVENT, CDP_EVENTS_IDENTIFIERS,
									   CDP_EVENTS_PROPERTIES, CDP_EVENTS_CONTEXT };
	static const Oid types[4] = { TEXTOID, TEXTOID, JSONBOID, JSONBOID };
	Datum		args[7];
	ListCell   *lc;
	Oid			output;
	bool		isvarlena;

	if (n == 0)
		return;
	getTypeOutputInfo(get_array_type(CdpTypeOid("identifier")), &output, &isvarlena);
	for (int c = 0; c < 4; c++)
	{
		columns[c] = palloc(sizeof(Datum) * n);
		nulls[c] = palloc(sizeof(bool) * n);
	}
	n = 0;
	foreach(lc, changed)
	{
		CdpEntry   *entry = &((CdpReadings *) lfirst(lc))->is;

		xids[n] = entry->xid;
		ids[n] = entry->id;
		received[n] = entry->received_at;
		for (int c = 0; c < 4; c++)
		{
			nulls[c][n] = entry->isnull[attributes[c]];
			columns[c][n] = entry->values[attributes[c]];
			/* arrays in an array go as text */
			if (attributes[c] == CDP_EVENTS_IDENTIFIERS && !nulls[c][n])
				columns[c][n] = CStringGetTextDatum(OidOutputFunctionCall(output, columns[c][n]));
		}
		n++;
	}
	args[0] = CdpInt8Array(xids, n);
	args[1] = CdpInt8Array(ids, n);
	args[2] = CdpTimestampArray(received, n);
	for (int c = 0; c < 4; c++)
		args[3 + c] = CdpVarlenaArray(columns[c], nulls[c], n, types[c]);
	CdpRunHere(&change_rows, args, NULL);
}

/*
 * Delete rows of the log, and what is known of them elsewhere.
 */
static void
write_deleted(List *deleted)
{
	int			n = list_length(deleted);
	int64	   *xids = palloc(sizeof(int64) * Max(n, 1));
	int64	   *ids = palloc(sizeof(int64) * Max(n, 1));
	TimestampTz *received = palloc(sizeof(TimestampTz) * Max(n, 1));
	Datum		args[3];
	ListCell   *lc;

	if (n == 0)
		return;
	n = 0;
	foreach(lc, deleted)
	{
		CdpEntry   *entry = &((CdpReadings *) lfirst(lc))->was;

		xids[n] = entry->xid;
		ids[n] = entry->id;
		received[n++] = entry->received_at;
	}
	args[0] = CdpInt8Array(xids, n);
	args[1] = CdpInt8Array(ids, n);
	args[2] = CdpTimestampArray(received, n);
	CdpRunHere(&delete_rows, args, NULL);
	args[0] = args[1];
	CdpRunHere(&forget_attached, args, NULL);
}

/*
 * What leads to these entries by their identifiers, and that they are rejected.
 */
static void
forget_ways(CdpBatch *batch, List *exchanged)
{
	int			max = 0;
	int			n = 0;
	int			nids = 0;
	int64	   *hashes;
	int64	   *entries;
	int64	   *ids = palloc(sizeof(int64) * Max(list_length(exchanged), 1));
	Datum		args[2];
	ListCell   *lc;

	foreach(lc, exchanged)
	{
		CdpEntry   *entry = &((CdpReadings *) lfirst(lc))->was;

		if (entry->identifiers != NULL)
			max += ArrayGetNItems(ARR_NDIM(entry->identifiers), ARR_DIMS(entry->identifiers));
	}
	hashes = palloc(sizeof(int64) * Max(max, 1));
	entries = palloc(sizeof(int64) * Max(max, 1));
	foreach(lc, exchanged)
	{
		CdpEntry   *entry = &((CdpReadings *) lfirst(lc))->was;
		int			count = CdpHistoryHashes(batch->kinds, entry, hashes + n);

		while (count-- > 0)
			entries[n++] = entry->id;
		ids[nids++] = entry->id;
	}
	if (n > 0)
	{
		args[0] = CdpInt8Array(hashes, n);
		args[1] = CdpInt8Array(entries, n);
		CdpRunHere(&forget_history, args, NULL);
	}
	args[0] = CdpInt8Array(ids, nids);
	CdpRunHere(&forget_rejected, args, NULL);
}

/*
 * Look at a row of the log: it may stay, be changed, or go.  owned: it is known
 * to be the person's.
 */
static void
take_row(Rows *rows, Datum *row, bool *isnull, bool owned)
{
	Erasure	   *erasure = rows->erasure;
	CdpReadings *reread = palloc0(sizeof(CdpReadings));
	Datum		values[CDP_EVENTS_NATTS];
	Fate		fate;

	memcpy(values, row, sizeof(values));
	CdpEntryFromRow(&reread->was, values, isnull);
	(void) CdpEntryCheck(&reread->was);
	CdpGraphCheck(rows->batch->graph, &reread->was, 1);
	if (!owned)
		owned = is_owned(erasure, &reread->was, false);
	fate = judge_row(rows, &reread->was, owned, values, isnull);
	if (fate == FATE_STAY)
		return;
	if (fate == FATE_GO && owned && erasure->mode == CDP_ERASE_ANONYMISE &&
		(reread->was.type == CDP_ENTRY_TRACK || reread->was.type == CDP_ENTRY_PAGE ||
		 reread->was.type == CDP_ENTRY_SCREEN || reread->was.type == CDP_ENTRY_GROUP ||
		 reread->was.type == CDP_ENTRY_LEAVE))
	{
		Jsonb	   *kept;

		fate = FATE_CHANGE;
		values[CDP_EVENTS_IDENTIFIERS] =
			PointerGetDatum(anonymous(rows, DatumGetArrayTypeP(values[CDP_EVENTS_IDENTIFIERS])));
		kept = isnull[CDP_EVENTS_PROPERTIES] ? NULL :
											   CdpScrubJsonb(erasure->scrubber, DatumGetJsonbP(values[CDP_EVENTS_PROPERTIES]));
		if (kept != NULL)
			values[CDP_EVENTS_PROPERTIES] = JsonbPGetDatum(kept);
		isnull[CDP_EVENTS_CONTEXT] = true;
	}
	if (fate == FATE_CHANGE)
		CdpEntryFromRow(&reread->is, values, isnull);
	rows->exchanged = lappend(rows->exchanged, reread);
}

static void
take_rows(Rows *rows, bool owned)
{
	for (uint64 r = 0; r < SPI_processed; r++)
	{
		Datum		values[CDP_EVENTS_NATTS];
		bool		isnull[CDP_EVENTS_NATTS];

		CHECK_FOR_INTERRUPTS();
		heap_deform_tuple(SPI_tuptable->vals[r], SPI_tuptable->tupdesc, values, isnull);
		take_row(rows, values, isnull, owned);
	}
	if (SPI_tuptable != NULL)
		SPI_freetuptable(SPI_tuptable);
}

/*
 * The copies of these messages that are to count now, as far as none of the
 * list is: those that do already are no news, and the person's own will go.
 */
static List *
other_copies(Rows *rows, CdpReadings **list, int n)
{
	text	  **sources = palloc(sizeof(text *) * Max(n, 1));
	text	  **messages = palloc(sizeof(text *) * Max(n, 1));
	CdpReadings **copies;
	int64	   *ids = palloc(sizeof(int64) * Max(n, 1));
	int			nmessages = 0;
	int			ncopies = 0;
	List	   *found;
	List	   *result = NIL;
	ListCell   *lc;

	for (int i = 0; i < n; i++)
	{
		ids[i] = list[i]->was.id;
		if (list[i]->was.message_id == NULL)
			continue;
		sources[nmessages] = list[i]->was.source;
		messages[nmessages++] = list[i]->was.message_id;
	}
	if (nmessages == 0)
		return NIL;
	found = CdpAppliedMessages(rows->batch, rows->applied, sources, messages, nmessages);
	copies = palloc(sizeof(CdpReadings *) * Max(list_length(found), 1));
	list_sort(found, by_number);
	foreach(lc, found)
	{
		CdpEntry   *copy = lfirst(lc);

		if (bsearch(&copy->id, ids, n, sizeof(int64), number_order) != NULL ||
			is_owned(rows->erasure, copy, false))
			continue;
		copies[ncopies] = palloc0(sizeof(CdpReadings));
		copies[ncopies++]->was = *copy;
	}
	if (ncopies > 0)
		CdpFindCounting(copies, ncopies);
	for (int i = 0; i < ncopies; i++)
		if (!copies[i]->counted)
			result = lappend(result, &copies[i]->was);
	return result;
}

/*
 * Write the rows, and exchange what they did for what they do; entries that have
 * not been applied do nothing so far.  Then the batch is to be written.
 */
static void
exchange(Rows *rows)
{
	CdpBatch   *batch = rows->batch;
	List	   *deleted = NIL;
	List	   *changed = NIL;
	List	   *applied = NIL;
	List	   *copies;
	CdpReadings **list;
	int64		rejected = batch->applier.rejected;
	int64		duplicates = batch->applier.duplicates;
	int			n = 0;
	ListCell   *lc;

	list_sort(rows->exchanged, by_entry);
	foreach(lc, rows->exchanged)
	{
		CdpReadings *reread = lfirst(lc);

		if (reread->is.id == 0)
			deleted = lappend(deleted, reread);
		else
			changed = lappend(changed, reread);
		if (CdpCursorsApplied(rows->applied, reread->was.incarnation, reread->was.xid,
							  reread->was.id))
			applied = lappend(applied, reread);
	}
	write_changed(changed);
	write_deleted(deleted);
	count_rows(rows->erasure, "log entries deleted", list_length(deleted));
	count_rows(rows->erasure, "log entries changed", list_length(changed));

	list = palloc(sizeof(CdpReadings *) * Max(list_length(applied), 1));
	foreach(lc, applied)
		list[n++] = lfirst(lc);
	if (n > 0)
	{
		forget_ways(batch, applied);
		CdpFindCounting(list, n);
	}
	batch->erasing = true;
	batch->rereading = true;
	copies = other_copies(rows, list, n);
	batch->entries = palloc0(sizeof(CdpEntry) * Max(n + list_length(copies), 1));
	batch->nentries = 0;
	for (int i = 0; i < n; i++)
	{
		if (list[i]->counted)
			batch->reread = lappend(batch->reread, &list[i]->was);
		else if (CDP_ENTRY_DECIDES(list[i]->was.type))
			batch->graph->withdrawn = lappend(batch->graph->withdrawn, &list[i]->was.id);
		if (list[i]->is.id != 0)
			batch->entries[batch->nentries++] = list[i]->is;
	}
	foreach(lc, copies)
	{
		batch->entries[batch->nentries] = *(CdpEntry *) lfirst(lc);
		batch->entries[batch->nentries++].reject_reason = NULL;
	}
	if (batch->nentries == 0 && batch->reread == NIL && batch->nemptied == 0 &&
		batch->graph->withdrawn == NIL)
		return;
	CdpBatchFold(batch, rows->applied);

	/* they were counted when they came */
	batch->applier.entries -= batch->nread;
	batch->applier.rejected = rejected;
	batch->applier.duplicates = duplicates;
	batch->nread = 0;

	CdpProfilesCollect(batch);
	for (int i = 0; i < batch->nprofiles; i++)
		if (batch->profiles[i]->cause == CDP_CAUSE_ENTRY ||
			batch->profiles[i]->cause == CDP_CAUSE_RETRACTION)
			batch->profiles[i]->cause = CDP_CAUSE_ERASURE;
	CdpBatchWrite(batch);
}

/* ---- the steps ---- */

static int64 *
ids_of(int *n)
{
	int64	   *ids = palloc(sizeof(int64) * Max(SPI_processed, 1));

	*n = 0;
	for (uint64 r = 0; r < SPI_processed; r++)
		ids[(*n)++] = CdpCellInt8(r, 1);
	if (SPI_tuptable != NULL)
		SPI_freetuptable(SPI_tuptable);
	return ids;
}

/*
 * Kinds of identifiers that are of devices: who else uses one has it, too.
 */
static bool
is_device(CdpKind *kind)
{
	static const char *const names[] = {
		"anonymous_id", "cookie", "cross_domain_id", "device_id", "ga_client_id"
	};

	if (!kind->registered)
		return false;
	for (int i = 0; i < lengthof(names); i++)
		if (strcmp(kind->name, names[i]) == 0)
			return true;
	return kind->shared != CDP_SHARED_FIRST || strncmp(kind->name, "android.", 8) == 0 ||
		strncmp(kind->name, "ios.", 4) == 0;
}

static Jsonb *
farewell_payload(Erasure *erasure, const int64 *nodes, int nnodes)
{
	StringInfoData buf;
	const char *kind = NULL;
	int			kindlen = 0;

	/* identifiers are in order, so those of a kind stand together */
	initStringInfo(&buf);
	appendStringInfo(&buf, "{\"erasure\": %lld, \"mode\": \"%s\", \"identifiers\": {",
					 (long long) erasure->id,
					 erasure->mode == CDP_ERASE_ANONYMISE ? "anonymise" : "erase");
	for (int i = 0; i < erasure->n; i++)
	{
		CdpIdentifier *identifier = erasure->identifiers[i];
		const char *name = VARDATA_ANY(identifier);
		int			len = CdpIdentifierKindLength(identifier);

		if (kind == NULL || len != kindlen || memcmp(kind, name, len) != 0)
		{
			if (kind != NULL)
				appendStringInfoString(&buf, "], ");
			escape_json(&buf, pnstrdup(name, len));
			appendStringInfoString(&buf, ": [");
			kind = name;
			kindlen = len;
		}
		else
			appendStringInfoString(&buf, ", ");
		escape_json(&buf, pnstrdup(name + len + 1, VARSIZE_ANY_EXHDR(identifier) - len - 1));
	}
	if (kind != NULL)
		appendStringInfoChar(&buf, ']');
	appendStringInfoString(&buf, "}, \"profile_ids\": [");
	appendStringInfo(&buf, "%lld", (long long) erasure->profile);
	for (int i = 0; i < nnodes; i++)
		if (nodes[i] != erasure->profile)
			appendStringInfo(&buf, ", %lld", (long long) nodes[i]);
	appendStringInfoString(&buf, "]}");
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data)));
}

static int
identifier_order(const void *a, const void *b)
{
	const struct varlena *x = *(struct varlena *const *) a;
	const struct varlena *y = *(struct varlena *const *) b;
	int			len_x = VARSIZE_ANY_EXHDR(x);
	int			len_y = VARSIZE_ANY_EXHDR(y);
	int			cmp = memcmp(VARDATA_ANY(x), VARDATA_ANY(y), Min(len_x, len_y));

	return cmp != 0 ? cmp : len_x - len_y;
}

/*
 * Which of the person's devices do entries of others name?  rows: what others
 * own who have to do with the person.
 */
static void
find_shared(CdpBatch *batch, Erasure *erasure, SPITupleTable *rows, uint64 nrows)
{
	MemoryContext chunk = AllocSetContextCreate(CurrentMemoryContext, "cdp erased devices",
												ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(chunk);

	for (uint64 r = 0; r < nrows; r++)
	{
		Datum		values[CDP_EVENTS_NATTS];
		bool		isnull[CDP_EVENTS_NATTS];
		CdpEntry	entry;

		CHECK_FOR_INTERRUPTS();
		heap_deform_tuple(rows->vals[r], rows->tupdesc, values, isnull);
		CdpEntryFromRow(&entry, values, isnull);
		(void) CdpEntryCheck(&entry);
		CdpGraphCheck(batch->graph, &entry, 1);
		for (int i = 0; i < entry.ncandidates; i++)
		{
			CdpIdentifier *name = CdpGraphCandidate(&entry, i);
			CdpIdentifier **found = bsearch(&name, erasure->identifiers, erasure->n,
											sizeof(CdpIdentifier *), identifier_order);

			if (found != NULL &&
				is_device(CdpKindLookup(batch->kinds, VARDATA_ANY(name),
										CdpIdentifierKindLength(name))))
				erasure->shared[found - erasure->identifiers] = true;
		}
		MemoryContextReset(chunk);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(chunk);
}

static void
write_identifiers(Erasure *erasure)
{
	int			n = erasure->n;
	Datum	   *names = palloc(sizeof(Datum) * n);
	Datum	   *shared = palloc(sizeof(Datum) * n);
	Datum	   *hashes = palloc(sizeof(Datum) * n);
	Datum	   *shared_hashes = palloc(sizeof(Datum) * n);
	CdpIdentifier **own = palloc(sizeof(CdpIdentifier *) * n);
	int			nown = 0;
	int			nshared = 0;
	Datum		args[4];

	for (int i = 0; i < n; i++)
	{
		Datum		hash = CdpTombstoneHash(erasure->identifiers[i]);

		names[i] = PointerGetDatum(erasure->identifiers[i]);
		shared[i] = BoolGetDatum(erasure->shared[i]);
		if (erasure->shared[i])
			shared_hashes[nshared++] = hash;
		else
		{
			hashes[nown] = hash;
			own[nown++] = erasure->identifiers[i];
		}
	}
	args[0] = Int64GetDatum(erasure->id);
	args[1] = CdpVarlenaArray(names, NULL, n, TEXTOID);
	args[2] = PointerGetDatum(construct_array(shared, n, BOOLOID, 1, true, TYPALIGN_CHAR));
	CdpRunHere(&add_shared_identifiers, args, NULL);
	args[1] = Int64GetDatum(erasure->profile);
	args[2] = CdpVarlenaArray(hashes, NULL, nown, BYTEAOID);
	args[3] = CdpVarlenaArray(shared_hashes, NULL, nshared, BYTEAOID);
	CdpRunHere(&set_profile, args, NULL);
	CdpTombstonesAdd(erasure->id, own, nown, CdpClock());
}

/*
 * Decisions that the person's own entries made.
 */
static void
withdraw_decisions(Rows *rows, const int64 *nodes, int nnodes)
{
	CdpBatch   *batch = rows->batch;
	Datum		arg = CdpInt8Array(nodes, nnodes);

	CdpRunHere(&decisions_of, &arg, NULL);
	for (uint64 r = 0; r < SPI_processed; r++)
	{
		Datum		values[CDP_EVENTS_NATTS];
		bool		isnull[CDP_EVENTS_NATTS];
		CdpEntry	entry;

		heap_deform_tuple(SPI_tuptable->vals[r], SPI_tuptable->tupdesc, values, isnull);
		CdpEntryFromRow(&entry, values, isnull);
		(void) CdpEntryCheck(&entry);
		CdpGraphCheck(batch->graph, &entry, 1);
		if (is_owned(rows->erasure, &entry, true))
		{
			int64	   *id = palloc(sizeof(int64));

			*id = entry.id;
			batch->graph->withdrawn = lappend(batch->graph->withdrawn, id);
		}
	}
	if (SPI_tuptable != NULL)
		SPI_freetuptable(SPI_tuptable);
}

/*
 * What is left outside of the log; then it is done.
 */
static int64
finish(Rows *rows)
{
	Erasure	   *erasure = rows->erasure;
	Datum		arg = Int64GetDatum(erasure->id);

	if (erasure->mode != CDP_ERASE_SUPPRESS)
	{
		CdpRunHere(&forget_values, &arg, NULL);
		SPI_freetuptable(SPI_tuptable);
	}
	CdpRunHere(&clear_identifiers, &arg, NULL);
	to_state(erasure, "done", 0);
	CdpRunHere(&acknowledged, NULL, NULL);
	SPI_freetuptable(SPI_tuptable);
	return 1;
}

static void
add_personal_keys(Erasure *erasure)
{
	int			n = CdpRunHere(&load_personal, NULL, NULL);
	Datum	   *keys = palloc(sizeof(Datum) * Max(n, 1));
	bool	   *personal = palloc(sizeof(bool) * Max(n, 1));

	for (int i = 0; i < n; i++)
	{
		bool		isnull;

		keys[i] = PointerGetDatum(CdpCellVarlena(i, 1, CurrentMemoryContext));
		personal[i] = DatumGetBool(CdpCell(i, 2, &isnull));
	}
	if (SPI_tuptable != NULL)
		SPI_freetuptable(SPI_tuptable);
	CdpScrubberPersonal(erasure->scrubber, keys, personal, n);
}

/*
 * The profile goes.
 */
static int64
vanish(Rows *rows)
{
	CdpBatch   *batch = rows->batch;
	Erasure	   *erasure = rows->erasure;
	Datum		args[5];
	int64		first_seq = batch->applier.next_seq;
	int64	   *nodes;
	int64	   *gone;
	int64	   *others;
	int			nnodes;
	int			ngone = 0;
	int			nothers;
	CdpIdentifier **names;
	SPITupleTable *owned = NULL;
	uint64		nowned = 0;
	CdpChange	farewell = { 0 };

	args[0] = PointerGetDatum(erasure->identifiers[0]);
	nnodes = CdpRunHere(&profile_nodes, args, NULL);
	nodes = palloc(sizeof(int64) * Max(nnodes, 1));
	gone = palloc(sizeof(int64) * Max(nnodes, 1));
	names = palloc(sizeof(CdpIdentifier *) * Max(nnodes, 1));
	for (int i = 0; i < nnodes; i++)
	{
		nodes[i] = CdpCellInt8(i, 1);
		names[i] = CdpCellVarlena(i, 2, CurrentMemoryContext);
		erasure->profile = CdpCellInt8(i, 3);
	}
	SPI_freetuptable(SPI_tuptable);
	if (nnodes > 0)
	{
		/* by identifier, and again by number where it matters */
		erasure->n = nnodes;
		erasure->identifiers = palloc(sizeof(CdpIdentifier *) * nnodes);
		memcpy(erasure->identifiers, names, sizeof(CdpIdentifier *) * nnodes);
		qsort(erasure->identifiers, nnodes, sizeof(CdpIdentifier *), identifier_order);
		erasure->shared = palloc0(sizeof(bool) * nnodes);

		args[0] = CdpInt8Array(nodes, nnodes);
		CdpRunHere(&neighbours, args, NULL);
		others = ids_of(&nothers);
		if (nothers > 0)
		{
			args[0] = CdpInt8Array(others, nothers);
			CdpRunHere(&owned_rows, args, NULL);
			owned = SPI_tuptable;
			nowned = SPI_processed;
			find_shared(batch, erasure, owned, nowned);
		}
	}
	write_identifiers(erasure);
	if (erasure->mode == CDP_ERASE_SUPPRESS)
	{
		if (owned != NULL)
			SPI_freetuptable(owned);
		return finish(rows);
	}
	erasure->scrubber = CdpScrubberMake(batch->kinds, erasure->identifiers, erasure->shared,
										erasure->n);
	if (nnodes == 0)
	{
		to_state(erasure, "sweeping", 0);
		return 1;
	}

	for (int i = 0; i < nnodes; i++)
	{
		bool		shared = false;

		(void) CdpScrubberHas(erasure->scrubber, names[i], &shared);
		if (!shared)
			gone[ngone++] = nodes[i];
	}
	args[0] = Int64GetDatum(erasure->id);
	args[1] = CdpInt8Array(nodes, nnodes);
	CdpRunHere(&remember_entries, args, NULL);
	CdpRunHere(&forget_recent, args + 1, NULL);
	if (owned != NULL)
	{
		SPI_tuptable = owned;
		SPI_processed = nowned;
		take_rows(rows, false);
	}
	withdraw_decisions(rows, nodes, nnodes);
	batch->emptied = nodes;
	batch->nemptied = nnodes;
	farewell.kind = "erased";
	farewell.profile_id = erasure->profile;
	farewell.payload = farewell_payload(erasure, gone, ngone);
	farewell.cause = CDP_CAUSE_ERASURE;
	farewell.occurred_at = batch->applier.clock;
	batch->farewell = &farewell;
	exchange(rows);
	batch->farewell = NULL;

	args[0] = Int64GetDatum(erasure->id);
	args[1] = CdpInt8Array(nodes, nnodes);
	args[2] = CdpInt8Array(gone, ngone);
	args[3] = Int32GetDatum(batch->applier.epoch);
	args[4] = Int64GetDatum(first_seq);
	CdpRunHere(&forget_nodes, args, NULL);
	SPI_freetuptable(SPI_tuptable);
	args[1] = Int32GetDatum(batch->applier.epoch);
	args[2] = Int64GetDatum(batch->applier.next_seq - 1);
	CdpRunHere(&set_change, args, NULL);
	count_rows(erasure, "identifiers", ngone);
	to_state(erasure, "removing", 0);
	return nnodes;
}

/*
 * Some of the person's entries go, or become anonymous.
 */
static int64
remove_entries(Rows *rows)
{
	Erasure	   *erasure = rows->erasure;
	Datum		args[2];
	int64		n;

	args[0] = Int64GetDatum(erasure->id);
	args[1] = Int64GetDatum(CHUNK_PIECES);
	n = CdpRunHere(&next_entries, args, NULL);
	take_rows(rows, true);
	exchange(rows);
	if (CdpRunHere(&more_entries, args, NULL) == 0)
		to_state(erasure, "sweeping", 0);
	SPI_freetuptable(SPI_tuptable);
	return Max(n, 1);
}

/*
 * Some pages of the log, of each partition; after the last ones the rest.
 */
static int64
sweep(Rows *rows)
{
	Erasure	   *erasure = rows->erasure;
	int64		pages;
	int64		step;
	Datum		args[2];

	CdpRunHere(&log_pages, NULL, NULL);
	step = Max(CHUNK_PAGES / Max(CdpCellInt8(0, 1), 1), 16);
	pages = CdpCellInt8(0, 2);
	SPI_freetuptable(SPI_tuptable);
	if (erasure->position >= pages)
		return finish(rows);
	args[0] = Int64GetDatum(erasure->position);
	args[1] = Int64GetDatum(erasure->position + step);
	CdpRunHere(&sweep_pages, args, NULL);
	take_rows(rows, false);
	exchange(rows);
	to_state(erasure, "sweeping", erasure->position + step);
	return step;
}

/*
 * Load the erasure at work; false: there is none.
 */
static bool
load(CdpBatch *batch, Erasure *erasure)
{
	Datum		arg;
	char	   *mode;
	bool		isnull;
	bool		found = CdpRunHere(&load_erasure, NULL, NULL) > 0;

	if (found)
	{
		erasure->id = CdpCellInt8(0, 1);
		mode = TextDatumGetCString(CdpCell(0, 2, &isnull));
		erasure->mode = CdpEraseModeFromText(mode, strlen(mode));
		erasure->removing = strcmp(TextDatumGetCString(CdpCell(0, 3, &isnull)), "removing") == 0;
		erasure->sweeping = strcmp(TextDatumGetCString(CdpCell(0, 3, &isnull)), "sweeping") == 0;
		erasure->position = CdpCellInt8(0, 4);
		erasure->profile = CdpCellInt8(0, 5);
		erasure->anonymous = CdpCellVarlena(0, 6, CurrentMemoryContext);
	}
	SPI_freetuptable(SPI_tuptable);
	if (!found)
		return false;
	arg = Int64GetDatum(erasure->id);
	erasure->n = CdpRunHere(&load_identifiers, &arg, NULL);
	erasure->identifiers = palloc(sizeof(CdpIdentifier *) * erasure->n);
	erasure->shared = palloc(sizeof(bool) * erasure->n);
	for (int i = 0; i < erasure->n; i++)
	{
		erasure->identifiers[i] = CdpCellVarlena(i, 1, CurrentMemoryContext);
		erasure->shared[i] = DatumGetBool(CdpCell(i, 2, &isnull));
	}
	SPI_freetuptable(SPI_tuptable);
	erasure->scrubber = CdpScrubberMake(batch->kinds, erasure->identifiers, erasure->shared,
										erasure->n);
	return true;
}

/*
 * One step.
 */
int64
CdpErasureStep(CdpBatch *batch, CdpCursorSet *applied, int max)
{
	Erasure		erasure = { 0 };
	Rows		rows = { .batch = batch, .applied = applied, .erasure = &erasure };
	int64		done;

	if (!load(batch, &erasure))
		return 1;
	if (erasure.mode == CDP_ERASE_ANONYMISE && erasure.removing)
		add_personal_keys(&erasure);
	CdpScrubberAtWork(erasure.scrubber);
	PG_TRY();
	{
		done = erasure.sweeping ? sweep(&rows) :
			erasure.removing	? remove_entries(&rows) :
								  vanish(&rows);
	}
	PG_FINALLY();
	{
		CdpScrubberAtWork(NULL);
	}
	PG_END_TRY();
	return done;
}
