/*-------------------------------------------------------------------------
 *
 * profiles.c
 *	  Which profiles a batch touches, and which have merged or split.
 *
 *	  The nodes that take part are gathered into the profiles that they are in
 *	  now.  A profile's number is that of one of its nodes; whose nodes are
 *	  elsewhere than before has moved.
 *
 * IDENTIFICATION
 *	  src/apply/profiles.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/hsearch.h"

#include "apply/batch.h"
#include "statement.h"

/* Where the nodes of a former profile are now. */
typedef struct Former
{
	int64		id;				/* hash key: old profile */
	int64	   *now;			/* ids of the profiles it is in now, ascending */
	int			nnow;
	int64		heir;			/* the one of these that its number stands for */
	int64		judged;			/* the last of these that was looked at */
	bool		lost;			/* a node of it is gone */
} Former;

bool
CdpBatchIsSilent(CdpBatch *batch)
{
	return batch->replaying || (batch->rereading && !batch->erasing);
}

CdpProfile *
CdpProfileOf(CdpBatch *batch, int64 id)
{
	CdpNode    *node = CdpGraphNode(batch->graph, id);

	if (node == NULL || node->batch != batch->graph->batch)
		return NULL;
	return CdpNodeRoot(node)->owner;
}

static HTAB *
int64_table(const char *name, Size entrysize, long n)
{
	HASHCTL		ctl;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(int64);
	ctl.entrysize = entrysize;
	ctl.hcxt = CurrentMemoryContext;
	return hash_create(name, Max(n, 16), &ctl,
					   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static int64 *
copy_int64(int64 value)
{
	int64	   *copy = palloc(sizeof(int64));

	*copy = value;
	return copy;
}

static bool
is_now(const Former *former, int64 profile)
{
	return former->nnow > 0 &&
		bsearch(&profile, former->now, former->nnow, sizeof(int64), CdpCompareInt8) != NULL;
}

static int
by_value(const ListCell *a, const ListCell *b)
{
	int64		x = *(int64 *) lfirst(a);
	int64		y = *(int64 *) lfirst(b);

	return x < y ? -1 : x > y ? 1 : 0;
}

static CdpProfile *
profile_of(CdpBatch *batch, CdpNode *node)
{
	CdpNode    *root = CdpNodeRoot(node);
	CdpProfile *profile = root->owner;

	if (profile == NULL)
	{
		profile = palloc0(sizeof(CdpProfile));
		profile->id = node->profile;
		profile->ring = root;
		profile->n = root->size;
		profile->node = root->id == profile->id ? root
			: CdpGraphNode(batch->graph, profile->id);
		profile->cause = CDP_CAUSE_ENTRY;
		root->owner = profile;
		batch->profiles[batch->nprofiles++] = profile;
	}
	return profile;
}

CdpNode **
CdpProfileParticipants(CdpBatch *batch, CdpProfile *profile, int *n)
{
	CdpGraph   *graph = batch->graph;
	CdpNode   **nodes;
	CdpNode    *node = profile->ring;
	int			i;

	*n = 0;
	if (profile->n <= CDP_LARGE_PROFILE || profile->n < graph->nactive)
	{
		nodes = palloc(sizeof(CdpNode *) * profile->n);
		do
		{
			if (node->batch == graph->batch)
				nodes[(*n)++] = node;
			node = node->next;
		} while (node != profile->ring);
		return nodes;
	}
	nodes = palloc(sizeof(CdpNode *) * Max(graph->nactive, 1));
	for (i = 0; i < graph->nactive; i++)
		if (!graph->active[i]->is_gone && graph->active[i]->profile == profile->id)
			nodes[(*n)++] = graph->active[i];
	return nodes;
}

/*
 * What happened to a profile some of whose nodes were in another one, or one
 * of whose former profiles has nodes elsewhere now.
 */
static void
judge_moves(CdpBatch *batch, CdpProfile *profile, HTAB *formers)
{
	List	   *absorbed = NIL;
	bool		several = false;
	bool		split = false;
	bool		lost = false;
	int64		first = 0;
	CdpNode   **nodes;
	int			n;
	int			i;

	nodes = CdpProfileParticipants(batch, profile, &n);
	for (i = 0; i < n; i++)
	{
		int64		was = nodes[i]->old_profile;
		Former	   *former;

		if (was == 0)
			continue;
		if (first == 0)
			first = was;
		else if (was != first)
			several = true;
		former = hash_search(formers, &was, HASH_FIND, NULL);
		if (former == NULL)
			continue;
		/* absorbed: it was a profile and is none any more */
		if (former->heir == profile->id && former->judged != profile->id &&
			!is_now(former, was))
			absorbed = lappend(absorbed, copy_int64(was));
		former->judged = profile->id;
		if (former->nnow > 1)
			split = true;
		lost |= former->lost;
	}
	pfree(nodes);

	profile->touched = true;
	if (lost)
		profile->cause = CDP_CAUSE_RETRACTION;
	if (split)
		profile->cause = CDP_CAUSE_SPLIT;
	if (several)
	{
		profile->cause = CDP_CAUSE_MERGE;
		if (absorbed != NIL && !CdpBatchIsSilent(batch))
		{
			CdpMerge   *merge = palloc(sizeof(CdpMerge));

			list_sort(absorbed, by_value);
			merge->profile = profile;
			merge->absorbed = absorbed;
			batch->merges = lappend(batch->merges, merge);
		}
	}
}

/*
 * Ids that stood for another profile until now: they are profiles again, or
 * their nodes are gone.
 */
static void
forget_merged(CdpBatch *batch)
{
	CdpGraph   *graph = batch->graph;
	int64	   *ids = palloc(sizeof(int64) * Max(graph->nactive, 1));
	int			n = 0;
	int			i;

	for (i = 0; i < graph->nactive; i++)
	{
		CdpNode    *node = graph->active[i];

		if (node->old_profile != 0 && node->old_profile != node->id &&
			(node->is_gone || node->profile == node->id))
			ids[n++] = node->id;
	}
	CdpMergesForget(ids, n);
	pfree(ids);
}

static void
sort_profiles(CdpBatch *batch)
{
	CdpNumbered *order = palloc(sizeof(CdpNumbered) * Max(batch->nprofiles, 1));
	int			i;

	for (i = 0; i < batch->nprofiles; i++)
	{
		order[i].number = batch->profiles[i]->id;
		order[i].then = 0;
		order[i].item = batch->profiles[i];
	}
	CdpNumberedSort(order, batch->nprofiles);
	for (i = 0; i < batch->nprofiles; i++)
		batch->profiles[i] = order[i].item;
	pfree(order);
}

/* A node of a former profile is in this one now. */
typedef struct Move
{
	int64		was;
	int64		now;
} Move;

static int
by_move(const void *a, const void *b)
{
	const Move *x = a;
	const Move *y = b;

	if (x->was != y->was)
		return x->was < y->was ? -1 : 1;
	return x->now < y->now ? -1 : x->now > y->now ? 1 : 0;
}

/*
 * Tell each former profile where its nodes are now.  One of a million may have
 * fallen into as many.
 */
static void
tell_formers(HTAB *formers, Move *moves, int n)
{
	int64	   *now = palloc_extended(sizeof(int64) * (Size) Max(n, 1), MCXT_ALLOC_HUGE);
	Former	   *former = NULL;

	qsort(moves, n, sizeof(Move), by_move);
	for (int i = 0; i < n; i++)
	{
		if (i > 0 && by_move(&moves[i], &moves[i - 1]) == 0)
			continue;
		if (former == NULL || former->id != moves[i].was)
		{
			former = hash_search(formers, &moves[i].was, HASH_FIND, NULL);
			former->now = now + i;
		}
		former->now[former->nnow++] = moves[i].now;
	}
}

/*
 * Gather the active nodes into profiles, and say why each is touched.
 */
void
CdpProfilesCollect(CdpBatch *batch)
{
	CdpGraph   *graph = batch->graph;
	HTAB	   *formers = NULL;
	HASH_SEQ_STATUS seq;
	Former	   *former;
	Move	   *moves;
	int			nmoves = 0;
	int			i;

	batch->profiles = palloc(sizeof(CdpProfile *) * Max(graph->nactive, 1));
	batch->nprofiles = 0;

	/* most batches move few nodes or none: look at those only */
	for (i = 0; i < graph->nactive; i++)
	{
		CdpNode    *node = graph->active[i];

		if (!node->is_gone)
		{
			CdpProfile *profile = profile_of(batch, node);

			if (node->row_changed || node->is_new)
				profile->touched = true;
		}
		if (node->old_profile != 0 &&
			(node->is_gone || node->profile != node->old_profile))
		{
			bool		found;

			if (formers == NULL)
				formers = int64_table("cdp former profiles", sizeof(Former), 64);
			former = hash_search(formers, &node->old_profile, HASH_ENTER,
								 &found);
			if (!found)
			{
				former->now = NULL;
				former->nnow = 0;
				former->heir = 0;
				former->judged = 0;
				former->lost = false;
			}
			former->lost |= node->is_gone;
		}
	}

	/* in the order of their ids, so that changes have an order of their own */
	sort_profiles(batch);
	if (formers == NULL)
		return;

	moves = palloc_extended(sizeof(Move) * (Size) Max(graph->nactive, 1), MCXT_ALLOC_HUGE);
	for (i = 0; i < graph->nactive; i++)
	{
		CdpNode    *node = graph->active[i];

		if (i % 1024 == 0)
			CHECK_FOR_INTERRUPTS();
		if (node->old_profile == 0 || node->is_gone)
			continue;
		former = hash_search(formers, &node->old_profile, HASH_FIND, NULL);
		if (former == NULL)
			continue;
		/* most stay together */
		if (nmoves == 0 || moves[nmoves - 1].was != node->old_profile ||
			moves[nmoves - 1].now != node->profile)
		{
			moves[nmoves].was = node->old_profile;
			moves[nmoves++].now = node->profile;
		}
		/* a profile's number is that of a node; if that is gone, the smallest */
		if (node->id == former->id)
			former->heir = node->profile;
		else if (former->heir == 0 ||
				 (former->heir > node->profile &&
				  (CdpGraphNode(graph, former->id) == NULL ||
				   CdpGraphNode(graph, former->id)->is_gone)))
			former->heir = node->profile;
		profile_of(batch, node)->moved = true;
	}
	tell_formers(formers, moves, nmoves);
	for (i = 0; i < batch->nprofiles; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (batch->profiles[i]->moved)
			judge_moves(batch, batch->profiles[i], formers);
	}
	if (!CdpBatchIsSilent(batch))
	{
		CdpPartings *partings = NULL;

		forget_merged(batch);
		CdpMergesAnnounce(batch, batch->merges);
		hash_seq_init(&seq, formers);
		while ((former = hash_seq_search(&seq)) != NULL)
		{
			if (former->nnow > 1)
			{
				if (partings == NULL)
					partings = CdpPartingsFind(batch);
				CdpSplitAnnounce(batch, partings, former->id, former->now, former->nnow);
			}
		}
	}
	hash_destroy(formers);
}
