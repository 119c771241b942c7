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
#include "utils/memutils.h"

#include "apply/erase.h"
#include "cdp.h"
#include "statement.h"

/* What is worked on at a time. */
#define CHUNK_PIECES 40 /* rows of cdp.erasure_entries, up to 128 entries each */
#define CHUNK_PAGES 2000 /* of the log, over all partitions */

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
	"SELECT r.id, r.mode, r.state, r.position, coalesce(r.profile_id, 0), r.anonymous,"
	" coalesce(r.layout, '')"
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

/* what these own that may name certain nodes; one of them may own a million entries */
static CdpStatement owned_rows = {
	"SELECT " CDP_EVENTS_COLUMNS
	" FROM (SELECT unnest($1) AS owner) AS u"
	" CROSS JOIN LATERAL ("
	"SELECT r.entry, r.xid, r.received_at FROM cdp.identities i"
	" CROSS JOIN LATERAL cdp.unpack_entries(i.recent, $2) r WHERE i.node_id = u.owner"
	" UNION ALL SELECT r.entry, r.xid, r.received_at FROM cdp.entry_pieces p"
	" CROSS JOIN LATERAL cdp.unpack_entries(p.refs, $2) r WHERE p.owner = u.owner"
	" UNION ALL SELECT w.entry, w.xid, w.received_at FROM cdp.withheld_entries w"
	" WHERE w.owner = u.owner) n"
	" JOIN cdp.events e ON e.xid = n.xid AND e.id = n.entry"
	" AND e.received_at = n.received_at",
	{"int8[]", "int4[]"}
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

/* layout: in other files, or restored ones, rows have other places */
static CdpStatement log_pages = {
	"SELECT count(*), coalesce(max(pg_relation_size(c.oid) / current_setting('block_size')::int), 0),"
	" (SELECT n.id FROM cdp.incarnation n) || ':' ||"
	" coalesce(md5(string_agg(pg_relation_filenode(c.oid)::text, ' ' ORDER BY c.oid)), '')"
	" FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
	" WHERE i.inhparent = 'cdp.events'::regclass",
	{NULL}
};

static CdpStatement set_layout = {
	"UPDATE cdp.erasures r SET layout = $2 WHERE r.id = $1",
	{"int8", "text"}
};

/* the same pages of all partitions */
static CdpStatement sweep_pages = {
	"SELECT " CDP_EVENTS_COLUMNS " FROM cdp.events e"
	" WHERE e.ctid >= ('(' || $1 || ',0)')::tid AND e.ctid < ('(' || $2 || ',0)')::tid"
	" AND cdp.erasure_touches(e.identifiers, e.event, e.properties, e.context)",
	{"int8", "int8"}
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

void
CdpErasureCount(CdpErasure *erasure, const char *what, int64 n)
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
to_state(CdpErasure *erasure, const char *state, int64 position)
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
	if (CdpTombstonesRefuse(batch->kinds, batch->entries, batch->nentries, refused,
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
farewell_payload(CdpErasure *erasure, const int64 *nodes, int nnodes)
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
 * own that may name one of the person's identifiers.
 */
static void
find_shared(CdpBatch *batch, CdpErasure *erasure, SPITupleTable *rows, uint64 nrows)
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
write_identifiers(CdpErasure *erasure)
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
withdraw_decisions(CdpErasureRows *rows, const int64 *nodes, int nnodes)
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
		if (CdpErasureOwns(rows->erasure, &entry, true))
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
finish(CdpErasureRows *rows)
{
	CdpErasure	   *erasure = rows->erasure;
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
add_personal_keys(CdpErasure *erasure)
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
vanish(CdpErasureRows *rows)
{
	CdpBatch   *batch = rows->batch;
	CdpErasure	   *erasure = rows->erasure;
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
			ArrayType  *naming = CdpEntriesNaming(nodes, nnodes);

			args[0] = CdpInt8Array(others, nothers);
			args[1] = PointerGetDatum(naming);
			CdpRunHere(&owned_rows, args, naming == NULL ? " n" : NULL);
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
		CdpErasureTakeRows(rows, false);
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
	CdpErasureExchange(rows);
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
	CdpErasureCount(erasure, "identifiers", ngone);
	to_state(erasure, "removing", 0);
	return nnodes;
}

/*
 * Some of the person's entries go, or become anonymous.
 */
static int64
remove_entries(CdpErasureRows *rows)
{
	CdpErasure	   *erasure = rows->erasure;
	Datum		args[2];
	int64		n;

	args[0] = Int64GetDatum(erasure->id);
	args[1] = Int64GetDatum(CHUNK_PIECES);
	n = CdpRunHere(&next_entries, args, NULL);
	CdpErasureTakeRows(rows, true);
	CdpErasureExchange(rows);
	if (CdpRunHere(&more_entries, args, NULL) == 0)
		to_state(erasure, "sweeping", 0);
	SPI_freetuptable(SPI_tuptable);
	return Max(n, 1);
}

/*
 * Some pages of the log, of each partition; after the last ones the rest.
 */
static int64
sweep(CdpErasureRows *rows)
{
	CdpErasure	   *erasure = rows->erasure;
	int64		pages;
	int64		step;
	char	   *layout;
	bool		isnull;
	Datum		args[2];

	CdpRunHere(&log_pages, NULL, NULL);
	step = Max(CHUNK_PAGES / Max(CdpCellInt8(0, 1), 1), 16);
	pages = CdpCellInt8(0, 2);
	layout = TextDatumGetCString(CdpCell(0, 3, &isnull));
	SPI_freetuptable(SPI_tuptable);
	if (strcmp(erasure->layout, layout) != 0)
	{
		erasure->position = 0;
		args[0] = Int64GetDatum(erasure->id);
		args[1] = CStringGetTextDatum(layout);
		CdpRunHere(&set_layout, args, NULL);
	}
	if (erasure->position >= pages)
		return CdpRefoldsStep(rows->batch, rows->applied) ? 1 : finish(rows);
	args[0] = Int64GetDatum(erasure->position);
	args[1] = Int64GetDatum(erasure->position + step);
	CdpRunHere(&sweep_pages, args, NULL);
	CdpErasureTakeRows(rows, false);
	CdpErasureExchange(rows);
	to_state(erasure, "sweeping", erasure->position + step);
	return step;
}

/*
 * Load the erasure at work; false: there is none.
 */
static bool
load(CdpBatch *batch, CdpErasure *erasure)
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
		erasure->layout = TextDatumGetCString(CdpCell(0, 7, &isnull));
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
	CdpErasure		erasure = { 0 };
	CdpErasureRows		rows = { .batch = batch, .applied = applied, .erasure = &erasure };
	int64		done;

	if (!load(batch, &erasure))
		return 1;
	if (erasure.mode == CDP_ERASE_ANONYMISE)
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
