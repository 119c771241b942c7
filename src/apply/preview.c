/*-------------------------------------------------------------------------
 *
 * preview.c
 *	  cdp.preview_identity(): who would be who once a change of the rules, or
 *	  everybody under the guards of this session, has gone through history.
 *
 *	  The applied log is read once, by the kinds as the transaction sees them,
 *	  and the graph is made anew in memory: nodes, the evidence of each pair,
 *	  decisions by hand.  It is judged as a whole, and the components are
 *	  compared with the profiles in cdp.identities, as the same snapshot has
 *	  them.  No lock is taken and nothing is written.
 *
 *	  Only what decides who counts is kept of an entry, so memory goes by
 *	  identifiers and pairs, not by entries.
 *
 * IDENTIFICATION
 *	  src/apply/preview.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

#include "apply/batch.h"
#include "cdp.h"
#include "compat.h"
#include "statement.h"

#define CHUNK	10000

/* what is needed of an entry to know what it means */
#define COLUMNS \
	"e.id, e.message_id, e.source, e.type, e.event, e.identifiers," \
	" CASE WHEN e.type IN ('undo', 'release', 'consent') OR e.type = 'identify'" \
	" AND jsonb_typeof(e.properties) <> 'object'" \
	" OR (SELECT bool_or(p.mode <> 'allow') FROM cdp.plan_definitions p)" \
	" THEN e.properties END," \
	" NULL::jsonb, e.occurred_at, e.received_at, e.xid, e.incarnation"

static CdpStatement any_change = {
	"SELECT 1 FROM cdp.rule_changes LIMIT 1",
	{NULL}
};

static CdpStatement repeated_messages = {
	"SELECT cdp.message_hash(e.source, e.message_id) FROM cdp.events e"
	" WHERE e.message_id IS NOT NULL GROUP BY 1 HAVING count(*) > 1",
	{NULL}
};

static CdpStatement detaches = {
	"SELECT " COLUMNS " FROM cdp.decisions d"
	" JOIN cdp.events e ON e.xid = d.xid AND e.id = d.entry WHERE d.type = 'detach'",
	{NULL}
};

typedef struct Preview
{
	MemoryContext context;		/* of what lasts */
	CdpGraph   *graph;
	CdpCursorSet *cursors;
	CdpUndoSet *undos;
	HTAB	   *repeated;		/* hashes of messages with several copies */
	List	   *copies;			/* CdpEntry *: those copies */
	List	   *decisions;		/* CdpEntry *: merges and splits that count */
} Preview;

/* An identifier as it is now. */
typedef struct Member
{
	int64		node;
	int64		profile;
	CdpIdentifier *identifier;
	CdpNode    *then;			/* NULL: no entry would name it */
} Member;

static text *
keep_text(Preview *preview, text *value)
{
	Size		size = VARSIZE_ANY(value);

	return memcpy(MemoryContextAlloc(preview->context, size), value, size);
}

/*
 * An entry counts: its nodes and its evidence.
 */
static void
take_entry(Preview *preview, CdpEntry *entry)
{
	CdpGraph   *graph = preview->graph;
	int			j;

	if (CdpUndoSetNames(preview->undos, entry))
		return;
	CdpGraphAdd(graph, entry, 1, true);
	if (entry->nnodes == 0)
		return;
	if (CDP_ENTRY_DECIDES(entry->type))
	{
		MemoryContext old = MemoryContextSwitchTo(preview->context);
		CdpEntry   *copy = palloc(sizeof(CdpEntry));

		*copy = *entry;
		copy->tie = keep_text(preview, entry->tie);
		copy->nodes = palloc(sizeof(int64) * entry->nnodes);
		memcpy(copy->nodes, entry->nodes, sizeof(int64) * entry->nnodes);
		if (entry->type != CDP_ENTRY_DETACH)
			preview->decisions = lappend(preview->decisions, copy);
		MemoryContextSwitchTo(old);
		return;
	}
	for (j = 1; j < entry->nnodes; j++)
	{
		CdpNode    *hub = CdpGraphNode(graph, entry->nodes[0]);
		CdpNode    *other = CdpGraphNode(graph, entry->nodes[j]);
		bool		found;
		CdpLink    *link = CdpGraphLink(graph, hub, other, false, &found);
		text	   *tie = NULL;

		if (!found || CdpGraphEvidenceCounts(graph, link, entry->at, entry->tie))
		{
			tie = keep_text(preview, entry->tie);
			link->entry = entry->id;
			link->at = entry->at;
			link->tie = tie;
			link->ord = j;
		}
		if (CdpNodeShared(hub) == CDP_SHARED_NEWEST ||
			CdpNodeShared(other) == CDP_SHARED_NEWEST)
			CdpLinkSeen(link, entry->at, tie ? tie : keep_text(preview, entry->tie));
	}
}

/*
 * The rows of SPI_tuptable as entries that have been applied and mean
 * something.
 */
static int
read_rows(Preview *preview, CdpEntry **result)
{
	CdpEntry   *entries = palloc(sizeof(CdpEntry) * Max(SPI_processed, 1));
	int			n = 0;
	uint64		i;

	for (i = 0; i < SPI_processed; i++)
	{
		Datum		values[CDP_EVENTS_NATTS];
		bool		isnull[CDP_EVENTS_NATTS];
		CdpEntry   *entry = &entries[n];

		heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc,
						  values, isnull);
		if (!CdpCursorsApplied(preview->cursors,
							   DatumGetInt32(values[CDP_EVENTS_INCARNATION]),
							   DatumGetInt64(values[CDP_EVENTS_XID]),
							   DatumGetInt64(values[CDP_EVENTS_ID])))
			continue;
		CdpEntryFromRow(entry, values, isnull);
		if (!CdpEntryJudge(entry))
			continue;
		CdpGraphCheck(preview->graph, entry, 1);
		if (entry->reject_reason == NULL)
			n++;
	}
	SPI_freetuptable(SPI_tuptable);
	*result = entries;
	return n;
}

static bool
is_repeated(Preview *preview, CdpEntry *entry)
{
	int64		hash;

	if (entry->message_id == NULL)
		return false;
	hash = CdpMessageHash(entry->source, entry->message_id);
	return hash_search(preview->repeated, &hash, HASH_FIND, NULL) != NULL;
}

static void
read_log(Preview *preview)
{
	SPIPlanPtr	plan = SPI_prepare("SELECT " COLUMNS " FROM cdp.events e", 0, NULL);
	MemoryContext chunk = AllocSetContextCreate(CurrentMemoryContext,
												"cdp preview entries",
												ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(chunk);
	Portal		portal;

	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s",
			 SPI_result_code_string(SPI_result));
	portal = SPI_cursor_open(NULL, plan, NULL, NULL, true);
	for (;;)
	{
		CdpEntry   *entries;
		int			n;
		int			i;

		CHECK_FOR_INTERRUPTS();
		if (CdpFetchHere(portal, CHUNK) == 0)
			break;
		n = read_rows(preview, &entries);
		for (i = 0; i < n; i++)
		{
			if (!is_repeated(preview, &entries[i]))
			{
				take_entry(preview, &entries[i]);
				continue;
			}

			/* which copy counts is known in the end; identifiers are kept raw */
			MemoryContextSwitchTo(preview->context);
			{
				CdpEntry   *copy = palloc(sizeof(CdpEntry));
				Datum		values[CDP_EVENTS_NATTS];
				bool		isnull[CDP_EVENTS_NATTS];

				memcpy(values, entries[i].values, sizeof(values));
				memcpy(isnull, entries[i].isnull, sizeof(isnull));
				CdpEntryFromRow(copy, values, isnull);
				preview->copies = lappend(preview->copies, copy);
			}
			MemoryContextSwitchTo(chunk);
		}
		MemoryContextReset(chunk);
	}
	SPI_cursor_close(portal);
	SPI_freeplan(plan);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(chunk);
}

static int
by_message(const ListCell *a, const ListCell *b)
{
	const CdpEntry *x = lfirst(a);
	const CdpEntry *y = lfirst(b);
	int			lx = VARSIZE_ANY_EXHDR(x->source);
	int			ly = VARSIZE_ANY_EXHDR(y->source);

	if (lx != ly)
		return lx < ly ? -1 : 1;
	return CdpOrderCompare(0, x->tie, 0, y->tie);
}

/*
 * Of the copies of a message the best one counts.
 */
static void
take_copies(Preview *preview)
{
	CdpEntry   *best = NULL;
	ListCell   *lc;

	list_sort(preview->copies, by_message);
	foreach(lc, preview->copies)
	{
		CdpEntry   *entry = lfirst(lc);
		ListCell   *next = lnext(preview->copies, lc);

		CHECK_FOR_INTERRUPTS();
		(void) CdpEntryJudge(entry);
		CdpGraphCheck(preview->graph, entry, 1);
		if (best == NULL || CdpEntryOutdoes(entry, best))
			best = entry;
		if (next != NULL && by_message(lc, next) == 0)
			continue;
		take_entry(preview, best);
		best = NULL;
	}
}

static int
by_pair(const ListCell *a, const ListCell *b)
{
	const CdpEntry *x = lfirst(a);
	const CdpEntry *y = lfirst(b);
	int64		xs[2] = {Min(x->nodes[0], x->nodes[1]), Max(x->nodes[0], x->nodes[1])};
	int64		ys[2] = {Min(y->nodes[0], y->nodes[1]), Max(y->nodes[0], y->nodes[1])};
	int			i;

	for (i = 0; i < 2; i++)
		if (xs[i] != ys[i])
			return xs[i] < ys[i] ? -1 : 1;
	return -CdpEntryCompare(x, y);
}

/*
 * Of the decisions about a pair the latest is effective.
 */
static void
take_decisions(Preview *preview)
{
	CdpGraph   *graph = preview->graph;
	int64		a = 0;
	int64		b = 0;
	ListCell   *lc;

	list_sort(preview->decisions, by_pair);
	foreach(lc, preview->decisions)
	{
		CdpEntry   *entry = lfirst(lc);
		CdpLink    *link;
		bool		found;

		if (Min(entry->nodes[0], entry->nodes[1]) == a &&
			Max(entry->nodes[0], entry->nodes[1]) == b)
			continue;
		a = Min(entry->nodes[0], entry->nodes[1]);
		b = Max(entry->nodes[0], entry->nodes[1]);
		if (entry->type == CDP_ENTRY_SPLIT)
		{
			CdpGraphAddCannot(graph, a, b);
			continue;
		}
		link = CdpGraphLink(graph, CdpGraphNode(graph, a), CdpGraphNode(graph, b),
							true, &found);
		link->entry = entry->id;
		link->at = entry->at;
		link->tie = entry->tie;
	}
}

/*
 * The whole graph, judged.
 */
static void
build(Preview *preview)
{
	HASHCTL		ctl;
	CdpEntry   *entries;
	uint64		r;
	int			n;
	int			i;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(int64);
	ctl.entrysize = sizeof(int64);
	ctl.hcxt = CurrentMemoryContext;
	preview->repeated = hash_create("cdp repeated messages", 1024, &ctl,
									HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	CdpRun(&repeated_messages, NULL, NULL);
	for (r = 0; r < SPI_processed; r++)
	{
		int64		hash = CdpCellInt8(r, 1);

		(void) hash_search(preview->repeated, &hash, HASH_ENTER, NULL);
	}
	SPI_freetuptable(SPI_tuptable);

	/* what a detach takes away must be known before evidence is compared */
	CdpRun(&detaches, NULL, NULL);
	n = read_rows(preview, &entries);
	for (i = 0; i < n; i++)
	{
		if (CdpUndoSetNames(preview->undos, &entries[i]))
			continue;
		CdpGraphAdd(preview->graph, &entries[i], 1, false);
		CdpGraphAddDetached(preview->graph, entries[i].owner, entries[i].at,
							entries[i].tie);
	}

	read_log(preview);
	take_copies(preview);
	take_decisions(preview);
	for (i = 0; i < preview->graph->nactive; i++)
		preview->graph->active[i]->dirty = true;
	CdpGraphReplayDirty(preview->graph);

	/* numbers that they would have: see below */
	for (i = 0; i < preview->graph->nactive; i++)
		preview->graph->active[i]->profile = PG_INT64_MAX;
}

static int
read_members(Preview *preview, Member **result)
{
	Member	   *members;
	uint64		i;
	int			n;

	if (SPI_execute("SELECT i.node_id, i.profile_id, i.identifier FROM cdp.identities i"
					" ORDER BY i.profile_id, i.node_id",
					true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read cdp.identities");
	n = SPI_processed;
	members = MemoryContextAllocHuge(CurrentMemoryContext,
									 sizeof(Member) * (Size) Max(n, 1));
	for (i = 0; i < n; i++)
	{
		Member	   *member = &members[i];
		CdpNode    *root;

		member->node = CdpCellInt8(i, 1);
		member->profile = CdpCellInt8(i, 2);
		member->identifier = CdpCellVarlena(i, 3, CurrentMemoryContext);
		member->then = CdpGraphKnown(preview->graph, member->identifier);
		if (member->then != NULL && member->then->first_seen == DT_NOEND)
			member->then = NULL;
		if (member->then == NULL)
			continue;

		/* the id of a profile is the smallest number in it */
		root = CdpNodeRoot(member->then);
		root->profile = Min(root->profile, member->node);
		member->then->old_profile = member->profile;
	}
	SPI_freetuptable(SPI_tuptable);
	*result = members;
	return n;
}

static void
put(Tuplestorestate *store, TupleDesc desc, const char *change, int64 profile,
	int64 into, CdpIdentifier *identifier)
{
	Datum		values[4];
	bool		nulls[4] = {false, profile == 0,
	into == 0 || into == PG_INT64_MAX, identifier == NULL};

	values[0] = CStringGetTextDatum(change);
	values[1] = Int64GetDatum(profile);
	values[2] = Int64GetDatum(into);
	values[3] = PointerGetDatum(identifier);
	tuplestore_putvalues(store, desc, values, nulls);
	pfree(DatumGetPointer(values[0]));
}

/*
 * One profile as it is now, n members: what would become of it.
 */
static void
compare_profile(Member *members, int n, Tuplestorestate *store, TupleDesc desc)
{
	int64		id = members[0].profile;
	CdpNode    *head = members[0].node == id ? members[0].then : NULL;
	CdpNode   **parts = palloc(sizeof(CdpNode *) * n);
	int			nparts = 0;
	int			i,
				j;

	for (i = 0; i < n; i++)
	{
		CdpNode    *root = members[i].then ? CdpNodeRoot(members[i].then) : NULL;

		if (root == NULL || root->mark == -1)
			continue;
		root->mark = -1;
		parts[nparts++] = root;
	}
	for (j = 0; j < nparts; j++)
		parts[j]->mark = 0;
	if (head != NULL && CdpNodeRoot(head)->profile != id)
		put(store, desc, "merge", id, CdpNodeRoot(head)->profile, NULL);
	for (j = 0; j < nparts && nparts > 1; j++)
		if (head == NULL || parts[j] != CdpNodeRoot(head))
			put(store, desc, "split", id, parts[j]->profile, NULL);
	for (i = 0; i < n; i++)
	{
		if (members[i].then == NULL)
			put(store, desc, "gone", id, 0, members[i].identifier);
		else if (CdpNodeRoot(members[i].then)->profile != id)
			put(store, desc, "move", id, CdpNodeRoot(members[i].then)->profile,
				members[i].identifier);
	}
	pfree(parts);
}

PG_FUNCTION_INFO_V1(cdp_preview_identity);

/*
 * cdp.preview_identity() returns setof (change, profile_id, into_profile_id,
 * identifier)
 */
Datum
cdp_preview_identity(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Preview		preview = {0};
	CdpUserContext saved;
	MemoryContext old;
	Member	   *members;
	int			n;
	int			i,
				j;

	InitMaterializedSRF(fcinfo, 0);
	CdpBecomeOwner(&saved);
	SPI_connect();
	preview.context = AllocSetContextCreate(CurrentMemoryContext, "cdp preview",
											ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(preview.context);
	CdpStatementsReadOnly = true;
	PG_TRY();
	{
		if (CdpRun(&any_change, NULL, NULL) > 0 || CdpGuardsChanged())
		{
			preview.cursors = CdpCursorsLoad();
			CdpIsolatedLoad(CdpApplierGlance(NULL));
			preview.undos = CdpUndoSetLoad();
			preview.graph = CdpGraphBegin(CdpKindSetGet(-1), 1, 0, 0);
			preview.graph->sealed = true;
			build(&preview);
			n = read_members(&preview, &members);
			for (i = 0; i < n; i = j)
			{
				CHECK_FOR_INTERRUPTS();
				for (j = i + 1; j < n && members[j].profile == members[i].profile; j++)
					;
				compare_profile(members + i, j - i, rsinfo->setResult, rsinfo->setDesc);
			}
			for (i = 0; i < preview.graph->nactive; i++)
			{
				CdpNode    *node = preview.graph->active[i];

				if (node->old_profile == 0 && node->first_seen != DT_NOEND)
					put(rsinfo->setResult, rsinfo->setDesc, "new", 0,
						CdpNodeRoot(node)->profile, node->identifier);
			}
		}
	}
	PG_FINALLY();
	{
		CdpStatementsReadOnly = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	SPI_finish();
	CdpRestoreUser(&saved);
	return (Datum) 0;
}
