/*-------------------------------------------------------------------------
 *
 * graph.c
 *	  The part of the identity graph that a batch touches: identifiers of
 *	  entries become nodes, evidence becomes links, links make components.
 *
 *	  A profile is a component of accepted evidence; its id is the smallest
 *	  node number in it.  The rules are applied to evidence in event-time
 *	  order, as Kruskal's algorithm does, so that the result does not depend
 *	  on arrival.  Two shortcuts spare the replay; both give what it would:
 *
 *	  - A union that keeps every rule is taken at once.  If the whole of both
 *		components together violates nothing, no subset of it does, so no link
 *		in it can have been refused at any time.
 *	  - A link that violates a rule and is later than anything on either side
 *		is refused at once: both sides looked then as they look now.
 *
 *	  Everything else marks the components dirty, and evidence.c replays all
 *	  evidence of their clusters.
 *
 * IDENTIFICATION
 *	  src/identity/graph.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "cdp.h"
#include "identity/graph.h"
#include "statement.h"

/* What a raw identifier means; hash entry, keyed by the raw bytes. */
typedef struct RawEntry
{
	CdpIdentifier *raw;			/* hash key (compared by contents) */
	CdpCanonicalStatus status;
	CdpIdentifier *canonical;
	CdpKind    *kind;
	CdpNode    *node;
} RawEntry;

/* Canonical identifier -> node; keyed by contents. */
typedef struct CanonicalEntry
{
	CdpIdentifier *identifier;	/* hash key */
	CdpKind    *kind;
	CdpNode    *node;			/* NULL until looked up or made */
	bool		wanted;			/* not yet looked up */
} CanonicalEntry;

/* An identifier's place in one entry. */
typedef struct CdpCandidate
{
	RawEntry   *raw;
	int			position;
} Candidate;

static CdpStatement load_by_identifier = {
	"SELECT j.node_id, j.identifier, j.profile_id, j.first_seen, j.last_seen,"
	" j.state, j.segments, j.timer"
	" FROM unnest($1) AS u (t)"
	" JOIN cdp.identities i ON i.identifier = u.t::cdp.identifier"
	" JOIN cdp.identities j ON j.profile_id = i.profile_id",
	{"text[]"}
};

static CdpStatement load_by_profile = {
	"SELECT j.node_id, j.identifier, j.profile_id, j.first_seen, j.last_seen,"
	" j.state, j.segments, j.timer"
	" FROM unnest($1) AS u (profile_id)"
	" JOIN cdp.identities j ON j.profile_id = u.profile_id",
	{"int8[]"}
};

static CdpStatement load_by_node = {
	"SELECT j.node_id, j.identifier, j.profile_id, j.first_seen, j.last_seen,"
	" j.state, j.segments, j.timer"
	" FROM unnest($1) AS u (node_id)"
	" JOIN cdp.identities i ON i.node_id = u.node_id"
	" JOIN cdp.identities j ON j.profile_id = i.profile_id",
	{"int8[]"}
};

static uint32
varlena_hash(const void *key, Size keysize)
{
	struct varlena *v = *(struct varlena *const *) key;

	return hash_bytes((const unsigned char *) VARDATA_ANY(v),
					  VARSIZE_ANY_EXHDR(v));
}

static int
varlena_match(const void *key1, const void *key2, Size keysize)
{
	struct varlena *a = *(struct varlena *const *) key1;
	struct varlena *b = *(struct varlena *const *) key2;

	if (VARSIZE_ANY_EXHDR(a) != VARSIZE_ANY_EXHDR(b))
		return 1;
	return memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a));
}

static HTAB *
varlena_table(CdpGraph *graph, const char *name, Size entrysize)
{
	HASHCTL		ctl;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(struct varlena *);
	ctl.entrysize = entrysize;
	ctl.hash = varlena_hash;
	ctl.match = varlena_match;
	ctl.hcxt = graph->context;
	return hash_create(name, 1024, &ctl,
					   HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
}

CdpGraph *
CdpGraphBegin(CdpKindSet *kinds, int64 next_node)
{
	CdpGraph   *graph = palloc0(sizeof(CdpGraph));
	HASHCTL		ctl;
	int			nkinds = CdpKindCount(kinds);
	int			i;

	graph->kinds = kinds;
	graph->context = CurrentMemoryContext;
	graph->next_node = next_node;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(int64);
	ctl.entrysize = sizeof(CdpNode);
	ctl.hcxt = graph->context;
	graph->nodes = hash_create("cdp nodes", 1024, &ctl,
							   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	graph->identifiers = varlena_table(graph, "cdp identifiers",
									   sizeof(CanonicalEntry));
	graph->raws = varlena_table(graph, "cdp raw identifiers",
								sizeof(RawEntry));

	graph->limited = palloc(sizeof(int) * Max(nkinds, 1));
	graph->limits = palloc(sizeof(int) * Max(nkinds, 1));
	for (i = 0; i < nkinds; i++)
	{
		CdpKind    *kind = CdpKindByIndex(kinds, i);

		graph->limited[i] = -1;
		if (kind->max_per_profile > 0)
		{
			graph->limited[i] = graph->nlimited;
			graph->limits[graph->nlimited++] = kind->max_per_profile;
		}
	}
	return graph;
}

CdpNode *
CdpGraphNode(CdpGraph *graph, int64 id)
{
	return hash_search(graph->nodes, &id, HASH_FIND, NULL);
}

static CdpNode *
add_node(CdpGraph *graph, int64 id, CdpIdentifier *identifier, CdpKind *kind)
{
	bool		found;
	CdpNode    *node = hash_search(graph->nodes, &id, HASH_ENTER, &found);
	CanonicalEntry *entry;

	Assert(!found);
	memset((char *) node + sizeof(int64), 0, sizeof(CdpNode) - sizeof(int64));
	node->identifier = identifier;
	node->kind = kind;
	node->timer = DT_NOEND;
	node->new_timer = DT_NOEND;
	node->first_seen = DT_NOEND;
	node->last_seen = DT_NOBEGIN;
	node->disk_last_seen = DT_NOBEGIN;

	entry = hash_search(graph->identifiers, &identifier, HASH_ENTER, &found);
	if (!found)
		entry->kind = kind;
	entry->node = node;
	entry->wanted = false;
	return node;
}

CdpNode *
CdpGraphMakeNode(CdpGraph *graph, CdpIdentifier *identifier, CdpKind *kind)
{
	CdpNode    *node = add_node(graph, graph->next_node++, identifier, kind);

	node->is_new = true;
	CdpGraphSingle(graph, node);
	return node;
}

/*
 * Take the rows of SPI_tuptable in: whole profiles, in any order, some of
 * which may be here already.
 */
static void
load_rows(CdpGraph *graph)
{
	uint64		nrows = SPI_processed;
	CdpNode   **loaded;
	uint64		nloaded = 0;
	uint64		i;

	loaded = palloc(sizeof(CdpNode *) * Max(nrows, 1));
	for (i = 0; i < nrows; i++)
	{
		int64		id = CdpCellInt8(i, 1);
		CdpIdentifier *identifier;
		CdpNode    *node;
		bool		isnull;
		Datum		value;

		if (CdpGraphNode(graph, id) != NULL)
			continue;
		identifier = CdpCellVarlena(i, 2, graph->context);
		node = add_node(graph, id, identifier,
						CdpKindLookup(graph->kinds,
									  VARDATA_ANY(identifier),
									  CdpIdentifierKindLength(identifier)));
		node->old_profile = CdpCellInt8(i, 3);
		node->first_seen = CdpCellInt8(i, 4);
		node->last_seen = CdpCellInt8(i, 5);
		node->disk_last_seen = node->last_seen;
		node->state = CdpCellVarlena(i, 6, graph->context);
		value = CdpCell(i, 7, &isnull);
		if (!isnull)
		{
			ArrayType  *array = DatumGetArrayTypeP(value);

			node->nsegments = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
			node->segments = MemoryContextAlloc(graph->context,
												sizeof(int32) * Max(node->nsegments, 1));
			memcpy(node->segments, ARR_DATA_PTR(array),
				   sizeof(int32) * node->nsegments);
		}
		value = CdpCell(i, 8, &isnull);
		if (!isnull)
			node->timer = node->new_timer = DatumGetTimestampTz(value);
		CdpGraphSingle(graph, node);
		loaded[nloaded++] = node;
	}
	for (i = 0; i < nloaded; i++)
	{
		CdpNode    *root = CdpGraphNode(graph, loaded[i]->old_profile);

		if (root == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("profile %lld has no identifier of that number",
							(long long) loaded[i]->old_profile)));
		CdpGraphJoin(graph, loaded[i], root);
	}
	pfree(loaded);
	SPI_freetuptable(SPI_tuptable);
}

void
CdpGraphAddProfiles(CdpGraph *graph, const int64 *profiles, int n)
{
	Datum		arg;

	if (n == 0)
		return;
	arg = CdpInt8Array(profiles, n);
	CdpRun(&load_by_profile, &arg, NULL);
	load_rows(graph);
}

void
CdpGraphAddNodes(CdpGraph *graph, const int64 *nodes, int n)
{
	Datum		arg;

	if (n == 0)
		return;
	arg = CdpInt8Array(nodes, n);
	CdpRun(&load_by_node, &arg, NULL);
	load_rows(graph);
}

/*
 * What does a raw identifier mean?
 */
static RawEntry *
look_at(CdpGraph *graph, CdpIdentifier *raw)
{
	bool		found;
	RawEntry   *entry = hash_search(graph->raws, &raw, HASH_ENTER, &found);

	if (!found)
	{
		entry->canonical = NULL;
		entry->kind = NULL;
		entry->node = NULL;
		entry->status = CdpCanonicalise(graph->kinds, raw,
										&entry->canonical, &entry->kind);
	}
	return entry;
}

/*
 * Note that a canonical identifier needs a node.
 */
static void
want(CdpGraph *graph, RawEntry *raw)
{
	bool		found;
	CanonicalEntry *entry;

	entry = hash_search(graph->identifiers, &raw->canonical, HASH_ENTER,
						&found);
	if (!found)
	{
		entry->kind = raw->kind;
		entry->node = NULL;
		entry->wanted = true;
	}
}

static CdpNode *
node_of(CdpGraph *graph, RawEntry *raw)
{
	if (raw->node == NULL)
	{
		CanonicalEntry *entry;

		entry = hash_search(graph->identifiers, &raw->canonical, HASH_FIND,
							NULL);
		if (entry->node == NULL)
			(void) CdpGraphMakeNode(graph, entry->identifier, entry->kind);
		raw->node = entry->node;
	}
	return raw->node;
}

/*
 * Look the wanted identifiers up, with all nodes of their profiles.
 */
static void
load_wanted(CdpGraph *graph)
{
	HASH_SEQ_STATUS seq;
	CanonicalEntry *entry;
	long		max = hash_get_num_entries(graph->identifiers);
	Datum	   *wanted = palloc(sizeof(Datum) * Max(max, 1));
	int			n = 0;

	hash_seq_init(&seq, graph->identifiers);
	while ((entry = hash_seq_search(&seq)) != NULL)
	{
		if (entry->wanted)
		{
			entry->wanted = false;
			wanted[n++] = PointerGetDatum(entry->identifier);
		}
	}
	if (n > 0)
	{
		/* a cdp.identifier looks like a text in memory */
		Datum		arg = CdpVarlenaArray(wanted, NULL, n, TEXTOID);

		CdpRun(&load_by_identifier, &arg, NULL);
		load_rows(graph);
	}
	pfree(wanted);
}

static bool
is_linking(RawEntry *raw)
{
	return raw->status == CDP_CANONICAL_OK;
}

/*
 * The usable identifiers of an entry: those that link first, then by priority
 * of their kind, then by place; each canonical identifier once.  Sets
 * reject_reason when there is none.
 */
static int
candidates_of(CdpGraph *graph, CdpEntry *entry, Candidate **result)
{
	Datum	   *elems;
	bool	   *nulls;
	int			nelems = 0;
	int			n = 0;
	int			naccounts = 0;
	Candidate  *candidates;
	int			i;

	*result = NULL;
	if (entry->identifiers != NULL)
		deconstruct_array(entry->identifiers,
						  ARR_ELEMTYPE(entry->identifiers), -1, false,
						  TYPALIGN_INT, &elems, &nulls, &nelems);
	candidates = palloc(sizeof(Candidate) * Max(nelems, 1));
	for (i = 0; i < nelems; i++)
	{
		Candidate	candidate;
		int			j;

		if (nulls[i])
			continue;
		candidate.raw = look_at(graph, (CdpIdentifier *) DatumGetPointer(elems[i]));
		candidate.position = i;
		if (candidate.raw->status == CDP_CANONICAL_ACCOUNT)
			naccounts++;
		if (!is_linking(candidate.raw) &&
			candidate.raw->status != CDP_CANONICAL_LABEL)
			continue;
		for (j = 0; j < n; j++)
			if (varlena_match(&candidates[j].raw->canonical,
							  &candidate.raw->canonical, 0) == 0)
				break;
		if (j < n)
			continue;
		for (j = n; j > 0; j--)
		{
			Candidate  *before = &candidates[j - 1];

			if (is_linking(before->raw) != is_linking(candidate.raw)
				? is_linking(before->raw)
				: before->raw->kind->priority <= candidate.raw->kind->priority)
				break;
			candidates[j] = *before;
		}
		candidates[j] = candidate;
		n++;
	}
	if (n == 0 && naccounts == 0)
	{
		entry->reject_reason = "no usable identifier";
		entry->reject_detail = nelems == 0
			? "The entry names no identifier."
			: "All identifiers of the entry are blocked or cannot be normalised.";
		entry->reject_sqlstate = ERRCODE_INVALID_PARAMETER_VALUE;
	}
	*result = candidates;
	return n;
}

/*
 * A merge or split names two different identifiers of registered kinds.
 */
static bool
check_decision(CdpEntry *entry)
{
	Candidate  *candidates = entry->candidates;

	if (entry->ncandidates == 2 && ArrayGetNItems(ARR_NDIM(entry->identifiers),
								 ARR_DIMS(entry->identifiers)) == 2 &&
		candidates[0].raw->kind->registered &&
		candidates[1].raw->kind->registered)
		return true;
	entry->reject_reason = "not two identifiers";
	entry->reject_detail =
		"A merge or split names exactly two different, usable identifiers of registered kinds.";
	entry->reject_sqlstate = ERRCODE_INVALID_PARAMETER_VALUE;
	return false;
}

void
CdpGraphCheck(CdpGraph *graph, CdpEntry *entries, int n)
{
	int			i,
				j;

	for (i = 0; i < n; i++)
	{
		CdpEntry   *entry = &entries[i];

		CHECK_FOR_INTERRUPTS();
		entry->ncandidates = 0;
		if (entry->reject_reason != NULL || entry->type == CDP_ENTRY_UNDO)
			continue;
		entry->ncandidates = candidates_of(graph, entry, &entry->candidates);
		if (entry->reject_reason != NULL)
			continue;
		if (entry->type == CDP_ENTRY_MERGE || entry->type == CDP_ENTRY_SPLIT)
		{
			check_decision(entry);
			continue;
		}

		/* labels of an entry that has something better get no node */
		for (j = 1; j < entry->ncandidates; j++)
			if (!is_linking(entry->candidates[j].raw))
				entry->ncandidates = j;
	}
}

void
CdpGraphAdd(CdpGraph *graph, CdpEntry *entries, int n, bool seen)
{
	int			i,
				j;

	for (i = 0; i < n; i++)
	{
		if (entries[i].reject_reason != NULL)
			continue;
		for (j = 0; j < entries[i].ncandidates; j++)
			want(graph, entries[i].candidates[j].raw);
	}
	load_wanted(graph);

	for (i = 0; i < n; i++)
	{
		CdpEntry   *entry = &entries[i];

		entry->owner = 0;
		entry->nnodes = 0;
		if (entry->reject_reason != NULL || entry->ncandidates == 0)
			continue;
		entry->nnodes = entry->ncandidates;
		entry->nodes = palloc(sizeof(int64) * entry->nnodes);
		for (j = 0; j < entry->nnodes; j++)
		{
			CdpNode    *node = node_of(graph, entry->candidates[j].raw);

			entry->nodes[j] = node->id;
			if (seen)
				CdpNodeSeen(node, entry->at);
		}
		entry->owner = entry->nodes[0];
	}
}

/*
 * An entry that counts names the node.
 */
void
CdpNodeSeen(CdpNode *node, TimestampTz at)
{
	if (at < node->first_seen)
	{
		node->first_seen = at;
		node->row_changed = true;
	}
	if (at > node->last_seen)
	{
		node->last_seen = at;
		node->row_changed = true;
	}
}

static int
link_order(const void *a, const void *b)
{
	const CdpLink *x = *(CdpLink *const *) a;
	const CdpLink *y = *(CdpLink *const *) b;
	int			cmp = CdpOrderCompare(x->at, x->tie, y->at, y->tie);

	if (cmp != 0)
		return cmp;
	return x->ord < y->ord ? -1 : x->ord > y->ord ? 1 : 0;
}

/*
 * Collect the evidence that the entries give: for each pair the earliest.
 * Returns those links whose evidence is new or earlier than what is known.
 */
static int
collect_links(CdpGraph *graph, CdpEntry *entries, int n, CdpLink ***result)
{
	CdpLink   **links;
	CdpLink    *seen;
	int			nlinks = 0;
	int			max = 0;
	int			i,
				j,
				kept;

	for (i = 0; i < n; i++)
		max += Max(entries[i].nnodes - 1, 0);
	links = palloc(sizeof(CdpLink *) * Max(max, 1));
	seen = palloc0(sizeof(CdpLink) * Max(max, 1));

	/* what this batch says, each pair once */
	for (i = 0; i < n; i++)
	{
		CdpEntry   *entry = &entries[i];

		if (entry->reject_reason != NULL ||
			entry->type == CDP_ENTRY_MERGE || entry->type == CDP_ENTRY_SPLIT)
			continue;
		for (j = 1; j < entry->nnodes; j++)
		{
			bool		found;
			CdpLink    *link;

			link = CdpGraphLink(graph, CdpGraphNode(graph, entry->nodes[0]),
								CdpGraphNode(graph, entry->nodes[j]),
								false, &found);
			if (!found)
				links[nlinks++] = link;
			else if (link->gone)
			{
				/* withdrawn, and here is other evidence; it is dirty */
				link->gone = false;
				link->changed = true;
			}
			else if (CdpOrderCompare(link->at, link->tie, entry->at, entry->tie) <= 0)
				continue;
			link->entry = entry->id;
			link->at = entry->at;
			link->tie = entry->tie;
			link->ord = j;
		}
	}

	/* what is known already; loading overwrites the links, so keep ours */
	for (i = 0; i < nlinks; i++)
		seen[i] = *links[i];
	CdpGraphLoadLinks(graph, links, nlinks);
	for (i = 0, kept = 0; i < nlinks; i++)
	{
		CdpLink    *link = links[i];

		if (!link->on_disk)
		{
			link->changed = true;
			links[kept++] = link;
		}
		else if (CdpOrderCompare(seen[i].at, seen[i].tie,
								 link->at, link->tie) < 0)
		{
			link->entry = seen[i].entry;
			link->at = seen[i].at;
			link->tie = seen[i].tie;
			link->ord = seen[i].ord;
			link->changed = true;

			/* the order of evidence has changed: look at all of it again */
			CdpNodeRoot(link->a)->dirty = true;
			CdpNodeRoot(link->b)->dirty = true;
			link->a->dirty = link->b->dirty = true;
		}
	}
	pfree(seen);
	*result = links;
	return kept;
}

static void
mark_dirty(CdpLink *link)
{
	link->a->dirty = link->b->dirty = true;
	CdpNodeRoot(link->a)->dirty = CdpNodeRoot(link->b)->dirty = true;
}

/*
 * Judge one new link that has come in the order of evidence.
 */
static void
judge_link(CdpGraph *graph, CdpLink *link)
{
	CdpNode    *x = CdpNodeRoot(link->a);
	CdpNode    *y = CdpNodeRoot(link->b);
	CdpVerdict	verdict;

	/* a replay will decide */
	if (x->dirty || y->dirty)
	{
		mark_dirty(link);
		return;
	}
	verdict = CdpGraphJudge(graph, x, y, false);
	switch (verdict)
	{
		case CDP_JOIN_SAME:
		case CDP_JOIN_OK:
			if (!CdpGraphWithinLimits(graph, x, y))
			{
				mark_dirty(link);
				return;
			}
			link->status = 'a';
			CdpGraphJoin(graph, x, y);
			return;

		case CDP_JOIN_LIMIT:
		case CDP_JOIN_CANNOT:
		case CDP_JOIN_SIZE:
			if (link->at <= Max(x->evidence_until, y->evidence_until))
			{
				mark_dirty(link);
				return;
			}
			link->status = verdict == CDP_JOIN_CANNOT ? 'o' : 'r';
			link->reason = CdpVerdictReason(verdict);
			return;
	}
}

/*
 * Decide who belongs together.
 */
void
CdpGraphSettle(CdpGraph *graph, CdpEntry *entries, int n)
{
	HASH_SEQ_STATUS seq;
	CdpNode    *node;
	CdpLink   **links;
	int			nlinks;
	int			i;

	/* nodes that no entry names any more (see apply/withdraw.c) */
	hash_seq_init(&seq, graph->nodes);
	while ((node = hash_seq_search(&seq)) != NULL)
		node->is_gone = node->first_seen == DT_NOEND;

	nlinks = collect_links(graph, entries, n, &links);
	CdpGraphDecide(graph, entries, n);
	CdpGraphLoadCannot(graph);

	qsort(links, nlinks, sizeof(CdpLink *), link_order);
	for (i = 0; i < nlinks; i++)
		judge_link(graph, links[i]);
	pfree(links);

	CdpGraphReplayDirty(graph);

	/* the id of a profile is the smallest number in it */
	hash_seq_init(&seq, graph->nodes);
	while ((node = hash_seq_search(&seq)) != NULL)
		node->profile = PG_INT64_MAX;
	hash_seq_init(&seq, graph->nodes);
	while ((node = hash_seq_search(&seq)) != NULL)
	{
		CdpNode    *root = CdpNodeRoot(node);

		/* collected at the root first, given to all below */
		if (!node->is_gone)
			root->profile = Min(root->profile, node->id);
	}
	hash_seq_init(&seq, graph->nodes);
	while ((node = hash_seq_search(&seq)) != NULL)
	{
		CdpNode    *root = CdpNodeRoot(node);

		if (root != node)
			node->profile = root->profile;
	}
}

/*
 * Write what the graph decided, but for the rows of cdp.identities: those
 * carry states as well and are written by who folded them.
 */
void
CdpGraphWrite(CdpGraph *graph)
{
	CdpGraphWriteLinks(graph);
}
