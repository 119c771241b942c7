/*-------------------------------------------------------------------------
 *
 * walk.h
 *	  Walks along the edges of a graph, for the other rooms: by an
 *	  identity_graph index where there is one, else by two btrees.
 *
 * IDENTIFICATION
 *	  src/identity/index/walk.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_WALK_H
#define CDP_WALK_H

#include "executor/tuptable.h"
#include "storage/itemptr.h"
#include "utils/rel.h"
#include "utils/snapshot.h"

/* An edge as seen from one of its ends. */
typedef struct CdpNeighbour
{
	int64		other;
	ItemPointerData tid;
	bool		all_visible;	/* the row is visible, unread */
} CdpNeighbour;

typedef void (*CdpNeighbourCallback) (const CdpNeighbour *neighbour, void *arg);

/*
 * Every entry of a node in an identity_graph index, dead ones included.  Where
 * all_visible is not set, the caller has to look in the heap, with the same
 * MVCC snapshot.  The callback is called with the bucket locked: it should
 * copy and return.  vm: a pinned page of the visibility map, to be kept by the
 * caller from call to call, InvalidBuffer at first, released by him.  An edge
 * from a node to itself is called for twice, one with a NULL end never.
 */
extern void CdpGraphIndexNeighbours(Relation heap, Relation index, int64 node,
									Snapshot snapshot, Buffer *vm,
									CdpNeighbourCallback callback, void *arg);

/*
 * A walk over cdp.links with the active snapshot.  accepted: only over evidence
 * that counts.
 */
typedef struct CdpWalk CdpWalk;

extern CdpWalk *CdpWalkBegin(bool accepted);
/* Whether a neighbour is of interest; asked before its row is looked at. */
typedef bool (*CdpWalkFilter) (int64 other, void *arg);

/*
 * The visible neighbours of a node that the filter (may be NULL) lets through;
 * the array is good until the next call.
 */
extern int	CdpWalkNeighbours(CdpWalk *walk, int64 node, CdpWalkFilter filter,
							  void *arg, CdpNeighbour **neighbours);
/* A hint that the neighbours of this node will be asked for soon. */
extern void CdpWalkExpect(CdpWalk *walk, int64 node);
/* The row of a neighbour; NULL when the snapshot does not see it. */
extern TupleTableSlot *CdpWalkRow(CdpWalk *walk, ItemPointer tid);
extern bool CdpWalkByIndex(CdpWalk *walk);
extern void CdpWalkEnd(CdpWalk *walk);

extern bool cdp_enable_graph_index;

#endif							/* CDP_WALK_H */
