/*-------------------------------------------------------------------------
 *
 * nodes.c
 *	  Nodes in memory: loaded with all of their profile, and kept from batch
 *	  to batch.
 *
 *	  There is one applier, so what it has in memory after a batch is what the
 *	  tables say, as long as nobody else has written since.  Each batch leaves
 *	  a random number in cdp.applier.token; whoever finds the number that it
 *	  left itself may go on with its nodes, anybody else starts empty.  That
 *	  covers another backend that applied, a transaction that was rolled back,
 *	  and an extension that was made again.
 *
 *	  What is kept is bounded (MAX_RESIDENT); when it grows beyond, all of it
 *	  is let go.
 *
 * IDENTIFICATION
 *	  src/identity/nodes.c
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
#include "direct.h"
#include "identity/graph.h"
#include "statement.h"

/*
 * Memory for nodes that are kept, in bytes: at least for the largest profile
 * that there may be, which would be loaded again for every batch otherwise.
 */
#define MAX_RESIDENT \
	Max((Size) 256 * 1024 * 1024, (Size) cdp_max_profile_identifiers * 1024)

/* Canonical identifier -> node; keyed by contents. */
typedef struct CanonicalEntry
{
	CdpIdentifier *identifier;	/* hash key */
	CdpNode    *node;			/* NULL: asked for, not looked up yet */
} CanonicalEntry;

/* Number -> node; the number is the node's first field, so that where it is tells the node. */
typedef struct NumberEntry
{
	const int64 *id;
	uint32		hash;
	char		status;			/* simplehash's */
} NumberEntry;

/*
 * Who comes one after the other is mostly asked for so: two are side by side.
 */
static inline uint32
hash_number(int64 id)
{
	uint64		both = (uint64) id >> 1;

	return (murmurhash32((uint32) both ^ (uint32) (both >> 32)) & ~(uint32) 1) | ((uint32) id & 1);
}

#define SH_PREFIX numbers
#define SH_ELEMENT_TYPE NumberEntry
#define SH_KEY_TYPE const int64 *
#define SH_KEY id
#define SH_STORE_HASH
#define SH_GET_HASH(tb, entry) (entry)->hash
#define SH_HASH_KEY(tb, id) hash_number(*(id))
#define SH_EQUAL(tb, a, b) (*(a) == *(b))
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* Nodes are made so many at a time: as fit into a chunk that loses nothing. */
#define NODES_A_BLOCK	((int) (8192 / sizeof(CdpNode)))
/* Room for identifiers: a chunk for each would take twice as much. */
#define IDENTIFIERS_BLOCK	8192

/* The time of the earliest evidence for a pair; hash entry. */
typedef struct KnownPair
{
	int64		a;				/* hash key, with b */
	int64		b;
	TimestampTz at;
	CdpKind    *barred_by;		/* see CdpGraphPairBarred */
} KnownPair;

static struct
{
	MemoryContext context;
	CdpGraph   *graph;			/* NULL: no nodes are kept */
	int64		generation;
	int64		kinds;			/* serial number of the graph's kinds */
	int			guards[3];		/* the settings that nodes were judged by */
	int64		token;			/* 0: a batch is at work, or one has failed */

	/* kept also when there are too many nodes to be kept: a bit for each number */
	MemoryContext judged_context;
	int64		judged_change;	/* whose cluster was judged for this change of rules */
	uint8	   *judged;
	Size		njudged;		/* bytes */
}			resident;

static uint32
varlena_hash(const void *key, Size keysize)
{
	struct varlena *v = *(struct varlena *const *) key;

	return hash_bytes((const unsigned char *) VARDATA_ANY(v),
					  VARSIZE_ANY_EXHDR(v));
}

int
CdpVarlenaMatch(const void *key1, const void *key2, Size keysize)
{
	struct varlena *a = *(struct varlena *const *) key1;
	struct varlena *b = *(struct varlena *const *) key2;

	if (VARSIZE_ANY_EXHDR(a) != VARSIZE_ANY_EXHDR(b))
		return 1;
	return memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a));
}

HTAB *
CdpVarlenaTable(MemoryContext context, const char *name, Size entrysize, int expected)
{
	HASHCTL		ctl;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(struct varlena *);
	ctl.entrysize = entrysize;
	ctl.hash = varlena_hash;
	ctl.match = CdpVarlenaMatch;
	ctl.hcxt = context;
	return hash_create(name, expected, &ctl,
					   HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
}

static HTAB *
pair_table(CdpGraph *graph, int expected)
{
	HASHCTL		ctl;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = 2 * sizeof(int64);
	ctl.entrysize = sizeof(KnownPair);
	ctl.hcxt = graph->resident;
	return hash_create("cdp pairs", expected, &ctl,
					   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static void
forget_nodes(void)
{
	if (resident.context != NULL)
		MemoryContextDelete(resident.context);
	resident.context = NULL;
	resident.graph = NULL;
}

static void
forget_resident(void)
{
	forget_nodes();
	if (resident.judged_context != NULL)
		MemoryContextDelete(resident.judged_context);
	memset(&resident, 0, sizeof(resident));
}

/*
 * An empty graph, for about so many nodes, that live in the current context.
 */
static CdpGraph *
make_graph(CdpKindSet *kinds, int expected)
{
	CdpGraph   *graph = palloc0(sizeof(CdpGraph));
	int			nkinds = CdpKindCount(kinds);
	int			i;

	graph->kinds = kinds;
	graph->resident = CurrentMemoryContext;
	graph->nodes = numbers_create(graph->resident, expected, NULL);
	graph->pairs = pair_table(graph, expected);
	graph->identifiers = CdpVarlenaTable(graph->resident, "cdp identifiers",
										 sizeof(CanonicalEntry), expected);
	graph->raws = CdpVarlenaTable(graph->resident, "cdp raw identifiers",
								  sizeof(CdpRawIdentifier), expected);

	graph->limited = palloc(sizeof(int) * Max(nkinds, 1));
	graph->limiting = palloc(sizeof(CdpKind *) * Max(nkinds, 1));
	for (i = 0; i < nkinds; i++)
	{
		CdpKind    *kind = CdpKindByIndex(kinds, i);

		graph->limited[i] = -1;
		if (kind->max_per_profile > 0)
		{
			graph->limited[i] = graph->nlimited;
			graph->limiting[graph->nlimited++] = kind;
			if (kind->within != CDP_PERIOD_EVER)
				graph->nperiodic++;
		}
		if (kind->links && kind->shared != CDP_SHARED_FIRST)
			graph->nshared++;
		if (kind->links && kind->shared == CDP_SHARED_NEWEST)
			graph->nnewest++;
		if (kind->links && kind->max_per_profile > 0 &&
			kind->policy != CDP_POLICY_DEMOTE)
			graph->npolicies++;
	}
	return graph;
}

/*
 * The graph for a batch: what was kept from the batch that left this token,
 * else an empty one.  Token 0: private to the batch, nothing is kept.
 */
CdpGraph *
CdpGraphBegin(CdpKindSet *kinds, int64 next_node, int64 generation, int64 token)
{
	CdpGraph   *graph;
	int			guards[] = {
		cdp_max_new_identifiers_per_hour, cdp_bridge_guard,
		cdp_max_profile_identifiers
	};

	if (token == 0)
		graph = make_graph(kinds, 1024);
	else
	{
		if (resident.token != token ||
			resident.generation != generation ||
			resident.kinds != CdpKindSetSerial(kinds) ||
			memcmp(resident.guards, guards, sizeof(guards)) != 0)
			forget_resident();
		if (resident.graph == NULL)
		{
			MemoryContext old;

			resident.context = AllocSetContextCreate(TopMemoryContext,
													 "cdp nodes",
													 ALLOCSET_DEFAULT_SIZES);
			old = MemoryContextSwitchTo(resident.context);
			resident.graph = make_graph(kinds, Max(1024, Min(cdp_max_profile_identifiers,
															 1000000)));
			MemoryContextSwitchTo(old);
			resident.generation = generation;
			resident.kinds = CdpKindSetSerial(kinds);
			memcpy(resident.guards, guards, sizeof(guards));
		}
		/* until CdpGraphEnd says otherwise, what is kept is good for nothing */
		resident.token = 0;
		graph = resident.graph;
	}
	graph->context = CurrentMemoryContext;
	graph->small = NULL;
	graph->small_left = 0;
	graph->next_node = next_node;
	graph->batch++;
	graph->nactive = 0;
	graph->maxactive = 0;
	graph->active = NULL;
	graph->nwanted = 0;
	graph->maxwanted = 0;
	graph->wanted = NULL;
	graph->links = NULL;
	graph->link_blocks = NULL;
	graph->maxblocks = 0;
	graph->nlinks = 0;
	graph->reading = NULL;
	graph->plans = NULL;
	graph->withdrawn = NIL;
	graph->undone = NIL;
	graph->cannot = NULL;
	graph->cannot_all = false;
	graph->sealed = false;
	graph->detached = NULL;
	graph->detached_all = false;
	graph->replayed = false;
	graph->loose = NIL;
	graph->again = NIL;
	graph->nways = 0;
	graph->nlooked = 0;
	graph->verdicts = NIL;
	graph->suspects[0] = graph->suspects[1] = NIL;
	graph->held = NIL;
	graph->repolicied = NIL;
	graph->guarded = -1;
	return graph;
}

static void
keep_varlena(struct varlena **kept, struct varlena *value, MemoryContext context)
{
	Size		size = VARSIZE_ANY(value);
	struct varlena *copy = MemoryContextAlloc(context, size);

	memcpy(copy, value, size);
	if (*kept != NULL)
		pfree(*kept);
	*kept = copy;
}

/*
 * The root has combined the states of all members.
 */
static void
keep_combined(CdpGraph *graph, CdpNode *root)
{
	CdpNode    *member = root;
	ListCell   *lc;

	if (root->combined == NULL)
	{
		do
		{
			member->in_combined = true;
			member = member->next;
		} while (member != root);
	}
	foreach(lc, root->uncombined)
		((CdpNode *) lfirst(lc))->in_combined = true;
	list_free(root->uncombined);
	root->uncombined = NIL;
	if (root->combined != root->new_combined)
		keep_varlena(&root->combined, root->new_combined, graph->resident);
	root->new_combined = NULL;
}

/*
 * Nodes that no entry names any more are let go of.  Where they are stays as it is,
 * for raw identifiers still point there, and who asks one of them finds that the node
 * is removed: there may be a million of these, which are not all looked at for one that
 * goes.  False: one is not alone.
 */
static bool
remove_gone(CdpGraph *graph)
{
	for (int i = 0; i < graph->nactive; i++)
		if (graph->active[i]->is_gone && graph->active[i]->next != graph->active[i])
			return false;
	for (int i = 0; i < graph->nactive; i++)
	{
		CdpNode    *node = graph->active[i];

		if (!node->is_gone)
			continue;
		if (node->state != NULL)
			pfree(node->state);
		if (node->recent != NULL)
			pfree(node->recent);
		if (node->segments != NULL)
			pfree(node->segments);
		if (node->counts != NULL && node->counts != node->few_counts)
			pfree(node->counts);
		CdpGraphUncombine(node);
		CdpPeriodsForget(node);
		/* its identifier stays, for raw identifiers share it */
		(void) hash_search(graph->identifiers, &node->identifier, HASH_REMOVE, NULL);
		(void) numbers_delete(graph->nodes, &node->id);
		node->removed = true;
	}
	return true;
}

/*
 * The batch has been written: what is in memory is what the tables say, for
 * whoever finds the token.
 */
void
CdpGraphEnd(CdpGraph *graph, int64 generation, int64 token)
{
	bool		gone = false;
	int			i;

	if (graph != resident.graph)
		return;
	for (i = 0; i < graph->nactive; i++)
	{
		CdpNode    *node = graph->active[i];

		if (node->is_gone)
		{
			gone = true;
			continue;
		}
		if (node->new_state != NULL)
		{
			/* it was made in the memory of the nodes */
			if (node->state != NULL && node->state != node->new_state)
				pfree(node->state);
			node->state = node->new_state;
			node->new_state = NULL;
		}
		if (node->recent_changed && node->new_recent != NULL)
			keep_varlena(&node->recent, node->new_recent, graph->resident);
		else if (node->recent_changed && node->recent != NULL)
		{
			pfree(node->recent);
			node->recent = NULL;
		}
		if (node->segments_changed)
		{
			if (node->segments != NULL)
				pfree(node->segments);
			node->segments = NULL;
			node->nsegments = node->nnew_segments;
			if (node->nsegments > 0)
			{
				node->segments = MemoryContextAlloc(graph->resident,
													sizeof(int32) * node->nsegments);
				memcpy(node->segments, node->new_segments,
					   sizeof(int32) * node->nsegments);
			}
		}
		if (node->new_combined != NULL)
			keep_combined(graph, node);
		else if (node->delta != NULL)
			CdpGraphUncombine(node);
		node->timer = node->new_timer;
		node->is_new = false;
		node->old_profile = node->profile;
		node->disk_first_seen = node->first_seen;
		node->disk_last_seen = node->last_seen;
		node->acc = NULL;
		node->delta = NULL;
	}
	for (i = 0; i < graph->nactive; i++)
	{
		CdpNode    *node = graph->active[i];
		CdpNode    *root = CdpNodeRoot(node);

		root->evidence_until = Max(root->evidence_until, node->last_seen);
	}
	CdpGraphKeepPairs(graph);
	if (gone && !remove_gone(graph))
	{
		forget_resident();
		return;
	}
	graph->active = NULL;
	graph->nactive = 0;

	if (MemoryContextMemAllocated(graph->resident, true) > MAX_RESIDENT)
		forget_nodes();
	resident.generation = generation;
	resident.token = token;
}

/*
 * Has the node's cluster been judged for this change of the rules, in a batch since
 * which nobody else has written?
 */
bool
CdpGraphJudgedFor(CdpGraph *graph, int64 node, int64 change)
{
	return graph == resident.graph && resident.judged_change == change &&
		(Size) node / 8 < resident.njudged &&
		(resident.judged[node / 8] & (1 << (node % 8))) != 0;
}

/*
 * What this batch has replayed was judged for this change of the rules.
 */
void
CdpGraphKeepJudged(CdpGraph *graph, int64 change)
{
	Size		needed = graph->next_node / 8 + 1;
	int			i;

	if (graph != resident.graph || !graph->replayed)
		return;
	if (resident.judged_context == NULL)
		resident.judged_context = AllocSetContextCreate(TopMemoryContext, "cdp judged",
														ALLOCSET_SMALL_SIZES);
	if (resident.judged_change != change)
	{
		MemoryContextReset(resident.judged_context);
		resident.judged = NULL;
		resident.njudged = 0;
		resident.judged_change = change;
	}
	if (resident.njudged < needed)
	{
		Size		size = needed + needed / 8;

		resident.judged = resident.judged == NULL
			? MemoryContextAllocHuge(resident.judged_context, size)
			: repalloc_huge(resident.judged, size);
		memset(resident.judged + resident.njudged, 0, size - resident.njudged);
		resident.njudged = size;
	}
	for (i = 0; i < graph->nactive; i++)
	{
		CdpNode    *node = graph->active[i];

		if (node->mark == graph->mark)
			resident.judged[node->id / 8] |= 1 << (node->id % 8);
	}
}

/*
 * When was the earliest evidence for a pair, if that is known?
 */
bool
CdpGraphPairKnown(CdpGraph *graph, int64 x, int64 y, TimestampTz *at)
{
	int64		key[2] = {Min(x, y), Max(x, y)};
	KnownPair  *pair = hash_search(graph->pairs, key, HASH_FIND, NULL);

	if (pair == NULL)
		return false;
	*at = pair->at;
	return true;
}

bool
CdpGraphPairBarred(CdpGraph *graph, int64 x, int64 y, CdpKind **by)
{
	int64		key[2] = {Min(x, y), Max(x, y)};
	KnownPair  *pair = hash_search(graph->pairs, key, HASH_FIND, NULL);

	*by = pair == NULL ? NULL : pair->barred_by;
	return pair != NULL;
}

void
CdpGraphPairKeep(CdpGraph *graph, int64 a, int64 b, bool gone, TimestampTz at,
				 CdpKind *barred_by)
{
	int64		key[2] = {a, b};
	KnownPair  *pair;
	bool		found;

	if (gone)
	{
		(void) hash_search(graph->pairs, key, HASH_REMOVE, NULL);
		return;
	}
	pair = hash_search(graph->pairs, key, HASH_ENTER, &found);
	pair->at = at;
	pair->barred_by = barred_by;
}

void
CdpGraphNewState(CdpGraph *graph, CdpNode *node, struct varlena *state)
{
	keep_varlena(&node->state, state, graph->resident);
	ItemPointerSetInvalid(&node->place);
}

CdpNode *
CdpGraphNode(CdpGraph *graph, int64 id)
{
	NumberEntry *entry = numbers_lookup(graph->nodes, &id);

	return entry == NULL ? NULL : (CdpNode *) entry->id;
}

static void
add_active(CdpGraph *graph, CdpNode *node)
{
	if (graph->nactive == graph->maxactive)
	{
		graph->maxactive = Max(1024, graph->maxactive * 2);
		if (graph->active == NULL)
			graph->active = MemoryContextAllocHuge(graph->context,
												   sizeof(CdpNode *) * (Size) graph->maxactive);
		else
			graph->active = repalloc_huge(graph->active,
										  sizeof(CdpNode *) * (Size) graph->maxactive);
	}
	graph->active[graph->nactive++] = node;
	node->batch = graph->batch;
	node->row_changed = false;
	node->is_gone = false;
	node->acc = NULL;
	node->owner = NULL;
	node->folded = false;
	node->new_state = NULL;
	node->recent_changed = false;
	node->new_recent = NULL;
	node->segments_changed = false;
	node->nnew_segments = 0;
	node->new_segments = NULL;
	node->new_timer = node->timer;
	node->dirty = false;
	node->mark = 0;
	node->alone = false;
	node->delta = NULL;
	node->new_combined = NULL;
}

/*
 * All members of the node's component take part in this batch.
 */
static void
activate_ring(CdpGraph *graph, CdpNode *node)
{
	CdpNode    *member = node;

	do
	{
		if (member->batch != graph->batch)
			add_active(graph, member);
		member->alone = false;
		member = member->next;
	} while (member != node);
}

static void
activate_alone(CdpGraph *graph, CdpNode *node)
{
	if (node->batch != graph->batch)
	{
		add_active(graph, node);
		node->alone = true;
	}
}

/*
 * The node takes part in this batch, and with it all of its profile; of a
 * large one, what speaks for it: the root and the node that has its number.
 */
void
CdpGraphActivate(CdpGraph *graph, CdpNode *node)
{
	CdpNode    *root;

	if (node->batch == graph->batch)
		return;
	root = CdpNodeRoot(node);
	if (root->size <= CDP_LARGE_PROFILE)
	{
		activate_ring(graph, node);
		return;
	}
	activate_alone(graph, node);
	activate_alone(graph, root);
	activate_alone(graph, CdpGraphNode(graph, root->smallest));
}

void
CdpGraphActivateCut(CdpGraph *graph, CdpNode *small, CdpNode *large)
{
	CdpNode    *root = CdpNodeRoot(large);

	activate_ring(graph, small);
	if (root->size <= CDP_LARGE_PROFILE)
	{
		activate_ring(graph, root);
		return;
	}
	activate_alone(graph, root);
	if (root->smallest != PG_INT64_MAX)
		activate_alone(graph, CdpGraphNode(graph, root->smallest));
}

/*
 * What is going to be replayed takes part as a whole.
 */
void
CdpGraphActivateDirty(CdpGraph *graph, bool all)
{
	int			i;

	for (i = 0; i < graph->nactive; i++)
		if (graph->active[i]->alone &&
			(all || CdpNodeRoot(graph->active[i])->dirty))
			activate_ring(graph, graph->active[i]);
}

/*
 * So does what gets another number.
 */
void
CdpGraphActivateMoved(CdpGraph *graph)
{
	int			i;

	for (i = 0; i < graph->nactive; i++)
		if (graph->active[i]->alone &&
			graph->active[i]->old_profile != CdpNodeRoot(graph->active[i])->smallest)
			activate_ring(graph, graph->active[i]);
}

/*
 * Memory for one node more.
 */
static CdpNode *
new_node(CdpGraph *graph)
{
	CdpNode    *node;

	if (graph->free_nodes == NULL)
	{
		node = MemoryContextAlloc(graph->resident, sizeof(CdpNode) * NODES_A_BLOCK);
		for (int i = 0; i < NODES_A_BLOCK; i++)
			node[i].next = i + 1 < NODES_A_BLOCK ? &node[i + 1] : NULL;
		graph->free_nodes = node;
	}
	node = graph->free_nodes;
	graph->free_nodes = node->next;
	memset(node, 0, sizeof(CdpNode));
	return node;
}

/*
 * A copy of an identifier that stays as long as nodes are kept.
 */
CdpIdentifier *
CdpGraphKeepIdentifier(CdpGraph *graph, const CdpIdentifier *identifier)
{
	Size		size = VARSIZE_ANY(identifier);
	char	   *copy;

	if (size > IDENTIFIERS_BLOCK / 4)
		return memcpy(MemoryContextAlloc(graph->resident, size), identifier, size);
	if (MAXALIGN(size) > graph->room_left)
	{
		graph->room = MemoryContextAlloc(graph->resident, IDENTIFIERS_BLOCK);
		graph->room_left = IDENTIFIERS_BLOCK;
	}
	copy = graph->room;
	graph->room += MAXALIGN(size);
	graph->room_left -= MAXALIGN(size);
	return memcpy(copy, identifier, size);
}

CdpNode *
CdpGraphAddNode(CdpGraph *graph, int64 id, CdpIdentifier *identifier, CdpKind *kind)
{
	bool		found;
	CdpNode    *node = new_node(graph);
	CanonicalEntry *entry;

	node->id = id;
	(void) numbers_insert(graph->nodes, &node->id, &found);
	Assert(!found);
	node->identifier = identifier;
	node->kind = kind;
	node->timer = DT_NOEND;
	node->first_seen = DT_NOEND;
	node->last_seen = DT_NOBEGIN;
	node->disk_first_seen = DT_NOEND;
	node->disk_last_seen = DT_NOBEGIN;
	node->counted_seen = DT_NOEND;
	node->contested = CDP_MAYBE;
	add_active(graph, node);

	entry = hash_search(graph->identifiers, &identifier, HASH_ENTER, &found);
	entry->node = node;
	return node;
}

CdpNode *
CdpGraphMakeNode(CdpGraph *graph, CdpIdentifier *identifier, CdpKind *kind)
{
	CdpNode    *node = CdpGraphAddNode(graph, graph->next_node++, identifier, kind);

	node->is_new = true;
	node->contested = CDP_NO;
	CdpGraphSingle(graph, node);
	return node;
}

/*
 * A canonical identifier is going to be needed; it must stay where it is for
 * as long as nodes are kept.
 */
void
CdpGraphWant(CdpGraph *graph, CdpIdentifier *identifier)
{
	bool		found;
	CanonicalEntry *entry;

	entry = hash_search(graph->identifiers, &identifier, HASH_ENTER, &found);
	if (found)
	{
		if (entry->node != NULL)
			CdpGraphActivate(graph, entry->node);
		return;
	}
	entry->node = NULL;
	if (graph->nwanted == graph->maxwanted)
	{
		graph->maxwanted = Max(1024, graph->maxwanted * 2);
		if (graph->wanted == NULL)
			graph->wanted = MemoryContextAlloc(graph->context,
											   sizeof(Datum) * graph->maxwanted);
		else
			graph->wanted = repalloc(graph->wanted,
									 sizeof(Datum) * graph->maxwanted);
	}
	graph->wanted[graph->nwanted++] = PointerGetDatum(identifier);
}

/*
 * The node of a canonical identifier that was asked for, made when it is new.
 */
CdpNode *
CdpGraphNodeOf(CdpGraph *graph, CdpIdentifier *identifier, CdpKind *kind)
{
	CanonicalEntry *entry = hash_search(graph->identifiers, &identifier,
										HASH_FIND, NULL);

	if (entry->node == NULL)
		(void) CdpGraphMakeNode(graph, entry->identifier, kind);
	return entry->node;
}

/*
 * The node of a canonical identifier, when there is one in memory.
 */
CdpNode *
CdpGraphKnown(CdpGraph *graph, CdpIdentifier *identifier)
{
	CanonicalEntry *entry = hash_search(graph->identifiers, &identifier,
										HASH_FIND, NULL);

	return entry != NULL ? entry->node : NULL;
}
