/*-------------------------------------------------------------------------
 *
 * withhold.c
 *	  Policies: entries that do not count because a link of theirs breaks the
 *	  limit of a kind.
 *
 *	  Such an entry still names its identifiers and is evidence; but it has no
 *	  part in traits and timelines.  It stands in cdp.withheld_entries instead
 *	  of cdp.entries, and has a row in cdp.rejected.  Under the policy
 *	  quarantine it counts once it is released; a release is an entry of the
 *	  log that names it, whichever of the two comes first.
 *
 *	  Which links are refused is known once the graph is settled.  Then the
 *	  entries of the batch are looked at; and where a link of earlier batches is
 *	  refused that was not before, or the other way round, the entries of its
 *	  ends: those that change sides are moved, and the states of their owners
 *	  are computed anew.
 *
 * IDENTIFICATION
 *	  src/apply/withhold.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "apply/batch.h"
#include "apply/sources.h"
#include "cdp.h"
#include "statement.h"

static CdpStatement withheld_of = {
	"SELECT n.owner, n.entry, n.kind, n.held FROM (SELECT unnest($1) AS owner) AS u"
	" JOIN cdp.withheld_entries n ON n.owner = u.owner",
	{"int8[]"}
};

static CdpStatement insert_withheld = {
	"INSERT INTO cdp.withheld_entries"
	" (owner, at, entry, xid, received_at, source, message_id, kind, held)"
	" SELECT unnest($1), unnest($2), unnest($3), unnest($4), unnest($5), unnest($6),"
	" unnest($7), unnest($8), unnest($9)",
	{"int8[]", "timestamptz[]", "int8[]", "int8[]", "timestamptz[]", "text[]",
	"text[]", "text[]", "bool[]"}
};

static CdpStatement insert_rejected = {
	"INSERT INTO cdp.rejected (entry, source, message_id, reason, detail,"
	" sqlstate, payload, held)"
	" SELECT u.entry, u.source, u.message_id, 'limit',"
	" format('A link between its identifiers would break the limit of kind \"%s\".', u.kind),"
	" '23514',"
	" (SELECT to_jsonb(e) FROM cdp.events e WHERE e.xid = u.xid AND e.id = u.entry LIMIT 1),"
	" u.held"
	" FROM (SELECT unnest($1) AS entry, unnest($2) AS xid,"
	" unnest($3) AS source, unnest($4) AS message_id,"
	" unnest($5) AS kind, unnest($6) AS held) AS u",
	{"int8[]", "int8[]", "text[]", "text[]", "text[]", "bool[]"}
};

static CdpStatement delete_withheld = {
	"DELETE FROM cdp.withheld_entries n USING unnest($1, $2, $3) AS u (owner, at, entry)"
	" WHERE n.owner = u.owner AND n.at = u.at AND n.entry = u.entry",
	{"int8[]", "timestamptz[]", "int8[]"}
};

static CdpStatement delete_rejected = {
	"DELETE FROM cdp.rejected r USING unnest($1) AS u (entry)"
	" WHERE r.entry = u.entry AND r.reason = 'limit'",
	{"int8[]"}
};

static CdpStatement insert_releases = {
	"INSERT INTO cdp.releases (entry, source, target)"
	" SELECT unnest($1), unnest($2), unnest($3)",
	{"int8[]", "text[]", "text[]"}
};

static CdpStatement delete_releases = {
	"DELETE FROM cdp.releases r USING unnest($1) AS u (entry)"
	" WHERE r.entry = u.entry RETURNING r.owner",
	{"int8[]"}
};

/* whose entries these releases are about */
static CdpStatement held_owners = {
	"SELECT n.owner FROM (SELECT unnest($1) AS source, unnest($2) AS target) AS u"
	" JOIN cdp.withheld_entries n ON n.source = u.source AND n.message_id = u.target",
	{"text[]", "text[]"}
};

/* which of these entries are released; and remember who owns them */
static CdpStatement find_released = {
	"UPDATE cdp.releases r SET owner = u.owner"
	" FROM (SELECT unnest($1) AS source, unnest($2) AS message_id,"
	" unnest($3) AS owner, unnest($4) AS i) AS u"
	" WHERE r.source = u.source AND r.target = u.message_id RETURNING u.i",
	{"text[]", "text[]", "int8[]", "int4[]"}
};

/* An entry as arguments of the statements. */
typedef struct Columns
{
	int			n;
	int64	   *owners;
	TimestampTz *ats;
	int64	   *ids;
	int64	   *xids;
	TimestampTz *received;
	Datum	   *sources;
	Datum	   *messages;
	Datum	   *kinds;
	Datum	   *held;
} Columns;

static void
make_columns(Columns *c, int max)
{
	max = Max(max, 1);
	c->n = 0;
	c->owners = palloc(sizeof(int64) * max);
	c->ats = palloc(sizeof(TimestampTz) * max);
	c->ids = palloc(sizeof(int64) * max);
	c->xids = palloc(sizeof(int64) * max);
	c->received = palloc(sizeof(TimestampTz) * max);
	c->sources = palloc(sizeof(Datum) * max);
	c->messages = palloc(sizeof(Datum) * max);
	c->kinds = palloc(sizeof(Datum) * max);
	c->held = palloc(sizeof(Datum) * max);
}

static void
add_column(Columns *c, CdpEntry *entry)
{
	int			i = c->n++;

	c->owners[i] = entry->owner;
	c->ats[i] = entry->at;
	c->ids[i] = entry->id;
	c->xids[i] = entry->xid;
	c->received[i] = entry->received_at;
	c->sources[i] = PointerGetDatum(entry->source);
	c->messages[i] = PointerGetDatum(CdpEntryMessageId(entry));
	c->kinds[i] = entry->withheld_by == NULL ? (Datum) 0
		: CStringGetTextDatum(entry->withheld_by->name);
	c->held[i] = BoolGetDatum(entry->held);
}

static void
withhold(Columns *c)
{
	Datum		args[9];

	if (c->n == 0)
		return;
	args[0] = CdpInt8Array(c->owners, c->n);
	args[1] = CdpTimestampArray(c->ats, c->n);
	args[2] = CdpInt8Array(c->ids, c->n);
	args[3] = CdpInt8Array(c->xids, c->n);
	args[4] = CdpTimestampArray(c->received, c->n);
	args[5] = CdpVarlenaArray(c->sources, NULL, c->n, TEXTOID);
	args[6] = CdpVarlenaArray(c->messages, NULL, c->n, TEXTOID);
	args[7] = CdpVarlenaArray(c->kinds, NULL, c->n, TEXTOID);
	args[8] = CdpVarlenaArray(c->held, NULL, c->n, BOOLOID);
	CdpRun(&insert_withheld, args, NULL);

	args[0] = CdpInt8Array(c->ids, c->n);
	args[1] = CdpInt8Array(c->xids, c->n);
	args[2] = CdpVarlenaArray(c->sources, NULL, c->n, TEXTOID);
	args[3] = CdpVarlenaArray(c->messages, NULL, c->n, TEXTOID);
	args[4] = CdpVarlenaArray(c->kinds, NULL, c->n, TEXTOID);
	args[5] = CdpVarlenaArray(c->held, NULL, c->n, BOOLOID);
	CdpRun(&insert_rejected, args, NULL);
}

static void
forget_withheld(Columns *c)
{
	Datum		args[3];

	if (c->n == 0)
		return;
	args[0] = CdpInt8Array(c->owners, c->n);
	args[1] = CdpTimestampArray(c->ats, c->n);
	args[2] = CdpInt8Array(c->ids, c->n);
	CdpRun(&delete_withheld, args, NULL);
	CdpRun(&delete_rejected, &args[2], NULL);
}

/*
 * Links that entries have and that are not in memory.
 */
static void
load_pairs(CdpGraph *graph, CdpEntry **entries, int n)
{
	CdpLink   **links;
	int			nlinks = 0;
	int			max = 0;
	int			i,
				j;

	for (i = 0; i < n; i++)
		max += entries[i]->nnodes;
	links = palloc(sizeof(CdpLink *) * Max(max, 1));
	for (i = 0; i < n; i++)
	{
		for (j = 1; j < entries[i]->nnodes; j++)
		{
			int64		x = entries[i]->nodes[0];
			int64		y = entries[i]->nodes[j];
			CdpKind    *by;
			bool		found;

			if (CdpGraphFindLink(graph, x, y, false) != NULL ||
				CdpGraphPairBarred(graph, x, y, &by))
				continue;
			links[nlinks++] = CdpGraphLink(graph, CdpGraphNode(graph, x),
										   CdpGraphNode(graph, y), false, &found);
		}
	}
	if (nlinks > 0)
		CdpGraphLoadLinks(graph, links, nlinks);
	pfree(links);
}

/*
 * Set withheld and the like of entries by their links, whatever is released.
 * Returns how many are held.
 */
int
CdpWithholdByLinks(CdpGraph *graph, CdpEntry **entries, int n)
{
	int			nheld = 0;
	int			i,
				j;

	load_pairs(graph, entries, n);
	for (i = 0; i < n; i++)
	{
		CdpEntry   *entry = entries[i];

		CHECK_FOR_INTERRUPTS();
		entry->withheld_by = NULL;
		entry->held = false;
		for (j = 1; j < entry->nnodes; j++)
		{
			CdpLink    *link = CdpGraphFindLink(graph, entry->nodes[0],
												entry->nodes[j], false);
			CdpKind    *by;
			bool		held;

			if (link != NULL)
				by = CdpLinkBarredBy(graph, link);
			else
				(void) CdpGraphPairBarred(graph, entry->nodes[0],
										  entry->nodes[j], &by);
			if (by == NULL)
				continue;
			held = by->policy == CDP_POLICY_QUARANTINE;
			/* what cannot be released comes first, then the first by name */
			if (entry->withheld_by == NULL || (entry->held && !held) ||
				(entry->held == held && by->index < entry->withheld_by->index))
			{
				entry->withheld_by = by;
				entry->held = held;
			}
		}
		entry->withheld = entry->withheld_by != NULL;
		nheld += entry->held;
	}
	return nheld;
}

/*
 * The same, and let what is released count.
 */
static void
judge_entries(CdpGraph *graph, CdpEntry **entries, int n)
{
	int			max = CdpWithholdByLinks(graph, entries, n);
	Datum	   *sources;
	Datum	   *messages;
	int64	   *owners;
	int32	   *places;
	int			nheld = 0;
	Datum		args[4];
	uint64		r;
	int			i;

	if (max == 0)
		return;
	sources = palloc(sizeof(Datum) * max);
	messages = palloc(sizeof(Datum) * max);
	owners = palloc(sizeof(int64) * max);
	places = palloc(sizeof(int32) * max);
	for (i = 0; i < n; i++)
	{
		CdpEntry   *entry = entries[i];

		if (!entry->held)
			continue;
		sources[nheld] = PointerGetDatum(entry->source);
		messages[nheld] = PointerGetDatum(CdpEntryMessageId(entry));
		owners[nheld] = entry->owner;
		places[nheld++] = i;
	}
	args[0] = CdpVarlenaArray(sources, NULL, nheld, TEXTOID);
	args[1] = CdpVarlenaArray(messages, NULL, nheld, TEXTOID);
	args[2] = CdpInt8Array(owners, nheld);
	args[3] = CdpInt4Array(places, nheld);
	CdpRun(&find_released, args, NULL);
	for (r = 0; r < SPI_processed; r++)
	{
		bool		isnull;
		CdpEntry   *entry = entries[DatumGetInt32(CdpCell(r, 1, &isnull))];

		entry->withheld_by = NULL;
		entry->held = false;
		entry->withheld = false;
	}
	SPI_freetuptable(SPI_tuptable);
	pfree(sources);
	pfree(messages);
	pfree(owners);
	pfree(places);
}

/*
 * Releases that came, and those that count no more.  Returns the owners of the
 * entries that they name.
 */
static List *
take_releases(CdpBatch *batch)
{
	CdpGraph   *graph = batch->graph;
	List	   *owners = NIL;
	List	   *gone = list_concat_copy(graph->withdrawn, graph->undone);
	int64	   *ids;
	Datum	   *sources = NULL;
	Datum	   *targets = NULL;
	ListCell   *lc;
	Datum		args[3];
	uint64		r;
	int			n = 0;
	int			i;

	if (gone != NIL)
	{
		ids = palloc(sizeof(int64) * list_length(gone));
		foreach(lc, gone)
			ids[n++] = *(int64 *) lfirst(lc);
		args[0] = CdpInt8Array(ids, n);
		CdpRun(&delete_releases, args, NULL);
		for (r = 0; r < SPI_processed; r++)
		{
			bool		isnull;
			int64	   *owner = palloc(sizeof(int64));

			*owner = DatumGetInt64(CdpCell(r, 1, &isnull));
			if (!isnull)
				owners = lappend(owners, owner);
		}
		SPI_freetuptable(SPI_tuptable);
	}

	for (n = 0, i = 0; i < batch->nentries; i++)
		n += batch->entries[i].type == CDP_ENTRY_RELEASE;
	if (n == 0)
		return owners;
	ids = palloc(sizeof(int64) * n);
	sources = palloc(sizeof(Datum) * n);
	targets = palloc(sizeof(Datum) * n);
	for (n = 0, i = 0; i < batch->nentries; i++)
	{
		CdpEntry   *entry = &batch->entries[i];

		if (entry->type != CDP_ENTRY_RELEASE || entry->reject_reason != NULL)
			continue;
		ids[n] = entry->id;
		sources[n] = PointerGetDatum(entry->source);
		targets[n++] = PointerGetDatum(CdpUndoTarget(entry));
	}
	if (n == 0)
		return owners;
	args[0] = CdpInt8Array(ids, n);
	args[1] = CdpVarlenaArray(sources, NULL, n, TEXTOID);
	args[2] = CdpVarlenaArray(targets, NULL, n, TEXTOID);
	CdpRun(&insert_releases, args, NULL);
	args[0] = args[1];
	args[1] = args[2];
	CdpRun(&held_owners, args, NULL);
	for (r = 0; r < SPI_processed; r++)
	{
		int64	   *owner = palloc(sizeof(int64));

		*owner = CdpCellInt8(r, 1);
		owners = lappend(owners, owner);
	}
	SPI_freetuptable(SPI_tuptable);
	return owners;
}

/* What the tables say of an entry that is withheld; hash entry. */
typedef struct Withheld
{
	int64		entry;			/* hash key */
	char	   *kind;
	bool		held;
} Withheld;

static HTAB *
load_withheld(int64 *owners, int n)
{
	HASHCTL		ctl;
	HTAB	   *result;
	Datum		arg = CdpInt8Array(owners, n);
	uint64		r;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(int64);
	ctl.entrysize = sizeof(Withheld);
	ctl.hcxt = CurrentMemoryContext;
	result = hash_create("cdp withheld entries", 64, &ctl,
						 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	CdpRun(&withheld_of, &arg, NULL);
	for (r = 0; r < SPI_processed; r++)
	{
		int64		id = CdpCellInt8(r, 2);
		bool		isnull;
		Withheld   *withheld = hash_search(result, &id, HASH_ENTER, NULL);

		withheld->kind = TextDatumGetCString(CdpCell(r, 3, &isnull));
		withheld->held = DatumGetBool(CdpCell(r, 4, &isnull));
	}
	SPI_freetuptable(SPI_tuptable);
	return result;
}

/*
 * Entries of these nodes may have to change sides.
 */
static void
look_at_owners(CdpBatch *batch, List *nodes)
{
	int64	   *owners = palloc(sizeof(int64) * list_length(nodes));
	bool	   *moved;
	int			nowners = 0;
	int			nactive;
	CdpEntry   *entries;
	CdpEntry  **all;
	int			nentries;
	HTAB	   *withheld;
	CdpEntry  **in;				/* those that count again */
	int			nin = 0;
	Columns		forgotten;		/* was withheld */
	Columns		kept;			/* is withheld, in another way than before */
	ListCell   *lc;
	int			i,
				n;

	foreach(lc, nodes)
		owners[nowners++] = *(int64 *) lfirst(lc);
	qsort(owners, nowners, sizeof(int64), CdpCompareInt8);
	for (n = 0, i = 0; i < nowners; i++)
		if (n == 0 || owners[n - 1] != owners[i])
			owners[n++] = owners[i];
	nowners = n;

	nactive = batch->graph->nactive;
	CdpGraphAddNodes(batch->graph, owners, nowners);
	entries = CdpLoadOwned(batch, owners, nowners, &nentries);

	/* whom the graph has not settled yet is where it was */
	for (i = nactive; i < batch->graph->nactive; i++)
		batch->graph->active[i]->profile = batch->graph->active[i]->old_profile;

	withheld = load_withheld(owners, nowners);
	moved = palloc0(sizeof(bool) * nowners);
	all = palloc(sizeof(CdpEntry *) * Max(nentries, 1));
	for (n = 0, i = 0; i < nentries; i++)
		if (!CDP_ENTRY_DECIDES(entries[i].type))
			all[n++] = &entries[i];
	judge_entries(batch->graph, all, n);

	in = palloc(sizeof(CdpEntry *) * Max(nentries, 1));
	make_columns(&forgotten, nentries);
	make_columns(&kept, nentries);
	for (i = 0; i < nentries; i++)
	{
		CdpEntry   *entry = &entries[i];
		Withheld   *was = hash_search(withheld, &entry->id, HASH_FIND, NULL);
		int64	   *place;

		if (was == NULL && entry->withheld_by == NULL)
			continue;
		if (was != NULL && entry->withheld_by != NULL)
		{
			if (was->held != entry->held ||
				strcmp(was->kind, entry->withheld_by->name) != 0)
			{
				add_column(&forgotten, entry);
				add_column(&kept, entry);
			}
			continue;
		}
		if (was != NULL)
		{
			add_column(&forgotten, entry);
			CdpAccountsNote(batch, entry, false);
			in[nin++] = entry;
		}
		else
		{
			CdpEntriesForget(batch, entry, 1);
			CdpAccountsNote(batch, entry, true);
			add_column(&kept, entry);
		}
		place = bsearch(&entry->owner, owners, nowners, sizeof(int64), CdpCompareInt8);
		moved[place - owners] = true;
	}
	forget_withheld(&forgotten);
	CdpEntriesAdd(batch, in, nin, true);
	withhold(&kept);
	for (n = 0, i = 0; i < nowners; i++)
		if (moved[i])
			owners[n++] = owners[i];
	if (n > 0)
		CdpRefold(batch, owners, n, entries, nentries);
}

/*
 * The graph is settled: see which entries count by the policies of kinds.
 */
void
CdpWithhold(CdpBatch *batch)
{
	CdpGraph   *graph = batch->graph;
	List	   *nodes = take_releases(batch);
	CdpEntry  **entries;
	int			n = 0;
	int			i;

	if (graph->npolicies == 0 && graph->repolicied == NIL)
		return;
	nodes = list_concat(nodes, CdpGraphBarsChanged(graph));
	if (nodes != NIL)
		look_at_owners(batch, nodes);

	entries = palloc(sizeof(CdpEntry *) * Max(batch->nentries, 1));
	for (i = 0; i < batch->nentries; i++)
	{
		CdpEntry   *entry = &batch->entries[i];

		if (batch->counts[i] && entry->reject_reason == NULL &&
			entry->nnodes > 1 && !CDP_ENTRY_DECIDES(entry->type))
			entries[n++] = entry;
	}
	judge_entries(graph, entries, n);
	pfree(entries);
}

/*
 * Entries are withdrawn that may have been withheld.
 */
void
CdpWithheldWithdraw(CdpBatch *batch, CdpEntry *entries, int n)
{
	Columns		columns;
	int			i;

	if (batch->graph->npolicies == 0 && batch->graph->repolicied == NIL)
		return;
	make_columns(&columns, n);
	for (i = 0; i < n; i++)
		if (entries[i].owner != 0)
			add_column(&columns, &entries[i]);
	forget_withheld(&columns);
}

/*
 * The batch's entries that are withheld.
 */
void
CdpWithheldWrite(CdpBatch *batch)
{
	Columns		columns;
	int			i;

	if (batch->graph->npolicies == 0)
		return;
	make_columns(&columns, batch->nentries);
	for (i = 0; i < batch->nentries; i++)
		if (batch->entries[i].withheld)
			add_column(&columns, &batch->entries[i]);
	withhold(&columns);
}
