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
/*
 * Call for each visible row that has the node at an end, with the other end;
 * the row is good until the callback returns.  For walks over all evidence.
 */
typedef void (*CdpWalkRowCallback) (TupleTableSlot *row, int64 other, void *arg);
extern void CdpWalkRows(CdpWalk *walk, int64 node, CdpWalkRowCallback callback,
						void *arg);
/* The row of a neighbour; NULL when the snapshot does not see it. */
extern TupleTableSlot *CdpWalkRow(CdpWalk *walk, ItemPointer tid);
extern bool CdpWalkByIndex(CdpWalk *walk);
extern void CdpWalkEnd(CdpWalk *walk);

extern bool cdp_enable_graph_index;

#endif							/* CDP_WALK_H */
