/*-------------------------------------------------------------------------
 *
 * graph.h
 *	  The part of the identity graph that a batch touches, in memory.
 *
 *	  A graph is opened for a batch, fed with entries, settled (which decides
 *	  every node's profile), and then read by whoever folds and writes.  All
 *	  nodes of every profile that the batch touches are in it, so that what is
 *	  computed for a profile is complete.
 *
 * IDENTIFICATION
 *	  src/identity/graph.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_GRAPH_H
#define CDP_GRAPH_H

#include "collect/collect.h"
#include "identity/identity.h"
#include "utils/hsearch.h"

typedef struct CdpNode
{
	int64		id;				/* hash key */
	CdpIdentifier *identifier;	/* canonical */
	CdpKind    *kind;
	bool		is_new;			/* has no row yet */
	bool		is_gone;		/* no entry names it any more: row to be deleted */
	bool		row_changed;	/* seen or state differ from the row */
	int64		old_profile;	/* profile in the row; 0 when new */
	int64		profile;		/* after CdpGraphSettle */
	TimestampTz first_seen;
	TimestampTz last_seen;
	TimestampTz disk_last_seen; /* as the row has it; DT_NOBEGIN when new */
	struct varlena *state;		/* as the row has it; NULL when new or empty */
	int			nsegments;		/* as the row has them */
	int32	   *segments;
	TimestampTz timer;			/* as the row has it; DT_NOEND: none */

	/* component: a forest of parents, members in a ring */
	struct CdpNode *parent;
	struct CdpNode *next;		/* ring of the component's members */
	int			size;			/* at the root: members */
	TimestampTz evidence_until; /* at the root: no evidence on disk is later */
	int		   *counts;			/* at the root: members per limited kind */
	bool		dirty;			/* its cluster must be recomputed */
	int			mark;			/* == graph->mark: in a cluster to be replayed */
	int64		batch;			/* == graph->batch: takes part in this batch */

	/* apply's */
	struct CdpNodeAcc *acc;
	struct CdpProfile *owner;	/* at the root */
	bool		folded;			/* acc differs from state */
	struct varlena *new_state;	/* what was written for it */
	bool		segments_changed;
	int			nnew_segments;	/* of the profile that has this node's id */
	int32	   *new_segments;
	TimestampTz new_timer;
} CdpNode;

/* Evidence for a pair of nodes, a->id < b->id. */
typedef struct CdpLink
{
	CdpNode    *a;
	CdpNode    *b;
	int64		entry;
	TimestampTz at;
	text	   *tie;
	int			ord;
	bool		manual;
	bool		on_disk;
	bool		changed;		/* evidence or status differ from the row */
	bool		gone;			/* no entry says so any more: row to be deleted */
	char		status;			/* 'a'ccepted, 'r'efused, 'o'verruled, 0: not judged */
	const char *reason;
} CdpLink;

/* The nodes that must not be one person with a node. */
typedef struct CdpCannot
{
	int64		id;				/* hash key */
	List	   *others;			/* of int64 * */
} CdpCannot;

/* What a raw identifier means; hash entry, keyed by the raw bytes. */
typedef struct CdpRawIdentifier
{
	CdpIdentifier *raw;			/* hash key (compared by contents) */
	CdpCanonicalStatus status;
	CdpIdentifier *canonical;
	CdpKind    *kind;
	CdpNode    *node;			/* NULL until asked for */
} CdpRawIdentifier;

typedef struct CdpGraph
{
	/* kept from batch to batch, in the context "resident" */
	CdpKindSet *kinds;
	MemoryContext resident;
	int64		batch;			/* number of the batch at work */
	HTAB	   *nodes;			/* by id */
	HTAB	   *identifiers;	/* canonical -> node */
	HTAB	   *raws;			/* raw -> what it means */
	HTAB	   *pairs;			/* (a, b) -> earliest event evidence */

	/* of this batch, in "context" */
	MemoryContext context;
	int64		next_node;		/* number of the next new node */
	int			nactive;
	int			maxactive;
	CdpNode   **active;			/* the nodes that take part, with all of their profiles */
	int			nwanted;
	int			maxwanted;
	Datum	   *wanted;			/* canonical identifiers to be looked up */
	HTAB	   *links;			/* (a, b, manual) -> CdpLink */
	int			nlimited;		/* kinds with a limit, by their index in counts */
	int		   *limited;		/* kind index -> index in counts, or -1 */
	int		   *limits;			/* index in counts -> limit */
	List	   *withdrawn;		/* int64 *: entries that do not count any more */
	HTAB	   *cannot;			/* CdpCannot by node id; NULL: there are none */
	bool		cannot_all;		/* it holds every cannot-link there is */
	bool		sealed;			/* made of what it was given alone: reads no table */
	int			mark;
} CdpGraph;

/* nodes.c: nodes in memory */
extern CdpGraph *CdpGraphBegin(CdpKindSet *kinds, int64 next_node, int64 generation,
							   int64 token);
extern void CdpGraphEnd(CdpGraph *graph, int64 generation, int64 token);
/* Bring in all nodes of these profiles (those whose timers are due). */
extern void CdpGraphAddProfiles(CdpGraph *graph, const int64 *profiles, int n);
/* Bring in these nodes with all nodes of their profiles. */
extern void CdpGraphAddNodes(CdpGraph *graph, const int64 *nodes, int n);
extern CdpNode *CdpGraphNode(CdpGraph *graph, int64 id);
extern CdpNode *CdpGraphMakeNode(CdpGraph *graph, CdpIdentifier *identifier, CdpKind *kind);
extern void CdpGraphWant(CdpGraph *graph, CdpIdentifier *identifier);
extern void CdpGraphLoadWanted(CdpGraph *graph);
extern CdpNode *CdpGraphNodeOf(CdpGraph *graph, CdpIdentifier *identifier, CdpKind *kind);
extern bool CdpGraphPairKnown(CdpGraph *graph, int64 x, int64 y, TimestampTz *at);
extern void CdpGraphPairKeep(CdpGraph *graph, int64 a, int64 b, bool gone, TimestampTz at);
extern int	CdpVarlenaMatch(const void *key1, const void *key2, Size keysize);

/* graph.c */
/*
 * Look at the identifiers of n entries: sets reject_reason where nothing
 * usable is left.  Reads no table.
 */
extern void CdpGraphCheck(CdpGraph *graph, CdpEntry *entries, int n);
/*
 * Resolve the identifiers of n checked entries to nodes, making nodes for
 * unknown ones; sets owner and nodes.  seen: they count, so their times do.
 */
extern void CdpGraphAdd(CdpGraph *graph, CdpEntry *entries, int n, bool seen);
/* Decide who belongs together; sets CdpNode.profile everywhere. */
extern void CdpGraphSettle(CdpGraph *graph, CdpEntry *entries, int n);
/* Write cdp.links and cdp.decisions. */
extern void CdpGraphWrite(CdpGraph *graph);
extern void CdpNodeSeen(CdpNode *node, TimestampTz at);

/* rules.c */
extern CdpNode *CdpNodeRoot(CdpNode *node);
typedef enum CdpVerdict
{
	CDP_JOIN_SAME,				/* already together */
	CDP_JOIN_OK,
	CDP_JOIN_LIMIT,
	CDP_JOIN_CANNOT,
	CDP_JOIN_SIZE
} CdpVerdict;

extern CdpVerdict CdpGraphJudge(CdpGraph *graph, CdpNode *x, CdpNode *y, bool manual);
extern bool CdpGraphWithinLimits(CdpGraph *graph, CdpNode *x, CdpNode *y);
extern void CdpGraphJoin(CdpGraph *graph, CdpNode *x, CdpNode *y);
extern void CdpGraphSingle(CdpGraph *graph, CdpNode *node);
extern const char *CdpVerdictReason(CdpVerdict verdict);

/* evidence.c: cdp.links and the replay of a cluster */
extern CdpLink *CdpGraphLink(CdpGraph *graph, CdpNode *x, CdpNode *y, bool manual, bool *found);
extern int	CdpLinkOrder(const void *a, const void *b);
extern void CdpGraphLoadLinks(CdpGraph *graph, CdpLink **links, int n);
extern void CdpGraphReplayDirty(CdpGraph *graph);
extern void CdpGraphWriteLinks(CdpGraph *graph);
extern void CdpGraphKeepPairs(CdpGraph *graph);

/* decision.c: merges, splits and undos by hand */
extern void CdpGraphDecide(CdpGraph *graph, CdpEntry *entries, int n);
extern void CdpGraphLoadCannot(CdpGraph *graph);
extern void CdpGraphAddCannot(CdpGraph *graph, int64 a, int64 b);

#endif							/* CDP_GRAPH_H */
