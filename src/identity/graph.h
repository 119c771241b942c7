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

/* Profiles of more nodes take part in a batch with the nodes that it names. */
#ifndef CDP_LARGE_PROFILE		/* make torture has it smaller */
#define CDP_LARGE_PROFILE	64
#endif

/*
 * There may be millions of them: what is small stands together, so that nothing is
 * lost between.
 */
typedef struct CdpNode
{
	int64		id;				/* hash key; the first field */
	CdpIdentifier *identifier;	/* canonical */
	CdpKind    *kind;
	int64		old_profile;	/* profile in the row; 0 when new */
	int64		profile;		/* after CdpGraphSettle */
	TimestampTz first_seen;
	TimestampTz last_seen;
	TimestampTz disk_first_seen;	/* as the row has it; DT_NOEND when new */
	TimestampTz disk_last_seen; /* the same; DT_NOBEGIN when new */
	struct varlena *state;		/* as the row has it; NULL when new or empty */
	struct varlena *recent;		/* the same: entries that it owns, packed */
	int32	   *segments;		/* as the row has them */
	TimestampTz timer;			/* as the row has it; DT_NOEND: none */
	int			nsegments;

	/*
	 * Where the row was when it was read, if nobody has written it since: whoever
	 * relies on it looks whether it has been found.  Invalid: not known.
	 */
	ItemPointerData place;
	bool		is_new;			/* has no row yet */
	bool		is_gone;		/* no entry names it any more: row to be deleted */
	bool		single;			/* as the row has it: it is all of its profile */
	bool		removed;		/* its row has been, and nothing here leads to it but raw identifiers */
	bool		row_changed;	/* seen or state differ from the row */
	bool		alone;			/* takes part without the rest of its profile */
	bool		dirty;			/* its cluster must be recomputed */
	bool		cut;			/* private to pendant.c and place.c */
	bool		asked;			/* private to evidence_rows.c */
	char		contested;		/* shared by people who cannot be one? */
	char		label;			/* private to apply/withdraw.c; 0: not asked */
	char		over_periods;	/* at the root: over a limit within a period? */
	char		timeline;		/* at the root: CDP_NO: good for CdpTimelineJoined only */
	bool		in_combined;	/* at each member, see combined */
	bool		folded;			/* acc differs from state */
	bool		recent_changed;
	bool		segments_changed;
	uint16		refusals;		/* at the root: for which reasons links were refused */
	uint16		suspect;		/* at the root: when it was suspected, for which refusals */
	int			mark;			/* == graph->mark: in a cluster to be replayed */

	/* component: a forest of parents, members in a ring */
	struct CdpNode *parent;
	struct CdpNode *next;		/* ring of the component's members */
	struct CdpNode *prev;
	struct CdpNode *limited;	/* at the root: one of those whose kind has a limit, NULL: none */
	struct CdpNode *next_limited;	/* ring of these */
	TimestampTz evidence_until; /* at the root: no evidence on disk is later */
	int		   *counts;			/* at the root: members per limited kind */
	int			few_counts[2];	/* that is where, when there are no more */
	struct periods_hash *periods;	/* at the root, private to period.c */
	int			size;			/* at the root: members; else when it was one */
	int			nshared;		/* at the root: members of kinds that are shared */
	TimestampTz counted_seen;	/* first_seen as the rules know it */
	int64		suspected;		/* at the root: batch in which it was looked at */
	int64		batch;			/* == graph->batch: takes part in this batch */
	int64		smallest;		/* at the root: the profile's id */

	/* when members came together, see timeline.c */
	struct CdpNode *up;			/* NULL: no hop */
	TimestampTz up_at;
	TimestampTz joined_until;	/* at the root: no members were joined later */
	int			below;			/* members that come by here, this one included */

	/* apply's */
	int			nnew_segments;	/* of the profile that has this node's id */
	int32	   *new_segments;
	TimestampTz new_timer;

	/*
	 * At the root of a large profile, the states of all members but those in
	 * "uncombined", as of the batch before; NULL: not known.  A cache.
	 */
	struct varlena *combined;
	List	   *uncombined;		/* CdpNode * */
	struct CdpNodeAcc *delta;	/* at the root: what the batch adds to combined */
	struct varlena *new_combined;	/* at the root */
	struct CdpNodeAcc *acc;
	struct CdpProfile *owner;	/* at the root */
	struct varlena *new_state;	/* what was written for it */
	struct varlena *new_recent;
} CdpNode;

/* What is known about a node or component. */
#define CDP_MAYBE	'?'
#define CDP_NO			'n'
#define CDP_YES		'y'

/* Evidence for a pair of nodes, a->id < b->id.  There may be millions, too. */
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
	bool		listed;			/* the batch has evidence for it that was not known */
	bool		loose;			/* was accepted for evidence that does not count now */
	bool		again;			/* is to be judged again, see CdpGraphAgain */
	bool		last_changed;
	char		status;			/* 'a'ccepted, 'r'efused, 'o'verruled, 0: not judged */
	char		was_status;		/* as the row has it; 0 when there is none */
	const char *reason;
	const char *detail;			/* reason limit: the kind */
	const char *was_reason;		/* as the row has them */
	const char *was_detail;
	TimestampTz was_at;

	/* the latest evidence, where an end is of a kind that the newest has */
	TimestampTz last_at;
	text	   *last_tie;
} CdpLink;

/* A row of cdp.links as it is read. */
typedef struct CdpEvidenceRow
{
	int64		a;
	int64		b;
	int64		entry;
	TimestampTz at;
	text	   *tie;
	int			ord;
	text	   *status;
	text	   *reason;
	text	   *detail;
	TimestampTz last_at;
	text	   *last_tie;		/* NULL: there is no last_at either */
} CdpEvidenceRow;

/* The nodes that must not be one person with a node. */
typedef struct CdpCannot
{
	int64		id;				/* hash key */
	List	   *others;			/* of int64 * */
} CdpCannot;

/* Evidence earlier than this does not join the node with anything. */
typedef struct CdpDetached
{
	int64		id;				/* hash key */
	TimestampTz at;
	text	   *tie;
} CdpDetached;

/* What a raw identifier means; hash entry, keyed by the raw bytes. */
typedef struct CdpRawIdentifier
{
	CdpIdentifier *raw;			/* hash key (compared by contents) */
	CdpCanonicalStatus status;
	CdpIdentifier *canonical;
	CdpKind    *kind;
	CdpNode    *node;			/* NULL until asked for; may be removed */
	bool		transient;		/* of another reading: not kept, kind not the graph's */
} CdpRawIdentifier;

/*
 * While a change of the rules is on its way through history, entries that it
 * has not reached are read as they were before.
 */
typedef CdpKindSet *(*CdpReadingType) (void *arg, const CdpEntry *entry);

/*
 * Called for each entry that is read and means something; may reject it, or
 * leave out properties.  kinds: by which rules it is read; NULL: those in force.
 * plans: what the hook keeps from entry to entry, first NULL.  Set by a later
 * station.
 */
struct CdpPlanSet;
typedef void (*CdpGraphReadHookType) (struct CdpPlanSet **plans, CdpKindSet *kinds,
									  CdpEntry *entry);
extern CdpGraphReadHookType CdpGraphReadHook;

typedef struct CdpGraph
{
	/* kept from batch to batch, in the context "resident" */
	CdpKindSet *kinds;
	MemoryContext resident;
	int64		batch;			/* number of the batch at work */
	struct numbers_hash *nodes; /* private to nodes.c: by id */
	CdpNode    *free_nodes;		/* memory of nodes to come */
	char	   *room;			/* for identifiers */
	Size		room_left;
	HTAB	   *identifiers;	/* canonical -> node */
	HTAB	   *raws;			/* raw -> what it means */
	HTAB	   *pairs;			/* (a, b) -> earliest event evidence */
	CdpReadingType reading;		/* NULL: all entries are read by kinds */
	void	   *reading_arg;
	struct CdpPlanSet *plans;	/* of the hook; NULL: not asked for yet */

	/* of this batch, in "context" */
	MemoryContext context;
	char	   *small;			/* private to evidence.c: room for what is small */
	Size		small_left;
	int64		next_node;		/* number of the next new node */
	int			nactive;
	int			maxactive;
	CdpNode   **active;			/* the nodes that take part, with all of their profiles */
	int			nwanted;
	int			maxwanted;
	Datum	   *wanted;			/* canonical identifiers to be looked up */
	struct links_hash *links;	/* private to links.c: those of the batch by their ends */
	CdpLink   **link_blocks;	/* where they stand, see CdpGraphLinkAt */
	int			maxblocks;
	int			nlinks;
	int			nlimited;		/* kinds with a limit, by their index in counts */
	int		   *limited;		/* kind index -> index in counts, or -1 */
	CdpKind   **limiting;		/* index in counts -> kind */
	int			nperiodic;		/* kinds with a limit within a period */
	int			nshared;		/* kinds whose identifiers are shared */
	int			nnewest;		/* those that the newest has */
	int			npolicies;		/* kinds whose broken limit costs entries */
	List	   *repolicied;		/* names (char *) of kinds that may have done so by other rules */
	List	   *suspects[2];	/* nodes, see CdpGraphLookAgain */
	List	   *held;			/* CdpLink *: new ones that the bridge guard holds */
	int			guarded;		/* are there links refused by a guard? -1: unknown */
	List	   *withdrawn;		/* int64 *: entries that do not count any more */
	List	   *undone;			/* int64 *: likewise, because of an undo */
	HTAB	   *cannot;			/* CdpCannot by node id; NULL: there are none */
	bool		cannot_all;		/* it holds every cannot-link there is */
	bool		sealed;			/* made of what it was given alone: reads no table */
	HTAB	   *detached;		/* CdpDetached by node id; NULL: there are none */
	bool		detached_all;	/* it holds every one there is */
	int			mark;			/* goes on from batch to batch, so that no node has it from an earlier one */
	bool		replayed;		/* there are nodes with this mark */
	List	   *loose;			/* CdpLink *, see pendant.c */
	int			nways;			/* how often some have left to make way */
	int64		nlooked;		/* members looked at for the last one to come */
	List	   *again;			/* CdpLink *: to be judged as if they had just come */
	List	   *verdicts;		/* CdpDecided *: merges and splits by hand */
} CdpGraph;

/* A merge or split by hand that has come or gone. */
typedef struct CdpDecided
{
	bool		merge;			/* else a split */
	bool		gone;
	int64		a;
	int64		b;
	int64		entry;
	TimestampTz at;
	text	   *tie;
} CdpDecided;

/* As many as go into a chunk of memory that is not given back to the system. */
#define CDP_LINKS_A_BLOCK	((int) (8192 / sizeof(CdpLink)))

static inline CdpLink *
CdpGraphLinkAt(const CdpGraph *graph, int i)
{
	return &graph->link_blocks[i / CDP_LINKS_A_BLOCK][i % CDP_LINKS_A_BLOCK];
}

/* nodes.c: nodes in memory */
extern CdpGraph *CdpGraphBegin(CdpKindSet *kinds, int64 next_node, int64 generation,
							   int64 token);
extern void CdpGraphEnd(CdpGraph *graph, int64 generation, int64 token);
/* Whose cluster has been judged for a change of the rules, as long as nobody else writes. */
extern bool CdpGraphJudgedFor(CdpGraph *graph, int64 node, int64 change);
extern void CdpGraphKeepJudged(CdpGraph *graph, int64 change);
/* Nodes that take part alone bring the rest of their profile; all: in any case. */
extern void CdpGraphActivateDirty(CdpGraph *graph, bool all);
extern void CdpGraphActivateMoved(CdpGraph *graph);
/* Both parts of a component that has been cut take part, the smaller one as a whole. */
extern void CdpGraphActivateCut(CdpGraph *graph, CdpNode *small, CdpNode *large);
extern CdpNode *CdpGraphNode(CdpGraph *graph, int64 id);
/* Its row has got another state. */
extern void CdpGraphNewState(CdpGraph *graph, CdpNode *node, struct varlena *state);
extern CdpNode *CdpGraphMakeNode(CdpGraph *graph, CdpIdentifier *identifier, CdpKind *kind);
/* A copy that stays as long as nodes are kept. */
extern CdpIdentifier *CdpGraphKeepIdentifier(CdpGraph *graph, const CdpIdentifier *identifier);
/* One that nobody knows anything of yet. */
extern CdpNode *CdpGraphAddNode(CdpGraph *graph, int64 id, CdpIdentifier *identifier, CdpKind *kind);
/* The node takes part in this batch, and with it its profile, or what speaks for it. */
extern void CdpGraphActivate(CdpGraph *graph, CdpNode *node);
extern void CdpGraphWant(CdpGraph *graph, CdpIdentifier *identifier);
extern CdpNode *CdpGraphNodeOf(CdpGraph *graph, CdpIdentifier *identifier, CdpKind *kind);
extern CdpNode *CdpGraphKnown(CdpGraph *graph, CdpIdentifier *identifier);
extern bool CdpGraphPairKnown(CdpGraph *graph, int64 x, int64 y, TimestampTz *at);
/* The kind that keeps entries with this pair from counting, NULL: none. */
extern bool CdpGraphPairBarred(CdpGraph *graph, int64 x, int64 y, CdpKind **by);
extern void CdpGraphPairKeep(CdpGraph *graph, int64 a, int64 b, bool gone, TimestampTz at,
							 CdpKind *barred_by);
extern int	CdpVarlenaMatch(const void *key1, const void *key2, Size keysize);
/* A hash table whose entries begin with a pointer to a varlena, compared by contents. */
extern HTAB *CdpVarlenaTable(MemoryContext context, const char *name, Size entrysize,
							 int expected);

/* load.c: nodes from their rows */
/* Bring in all nodes of these profiles (those whose timers are due). */
extern void CdpGraphAddProfiles(CdpGraph *graph, const int64 *profiles, int n);
/* Bring in these nodes with all nodes of their profiles. */
extern void CdpGraphAddNodes(CdpGraph *graph, const int64 *nodes, int n);
extern void CdpGraphLoadWanted(CdpGraph *graph);

/* graph.c */
/*
 * Look at the identifiers of n entries: sets reject_reason where nothing
 * usable is left.  Reads no table.
 */
extern void CdpGraphCheck(CdpGraph *graph, CdpEntry *entries, int n);
/* The same under given kinds. */
extern void CdpGraphCheckAs(CdpGraph *graph, CdpKindSet *kinds, CdpEntry *entry);
/*
 * Which of their properties are there: for who folds entries of which it is known
 * that they count, and whose they are.  reading NULL: by the rules in force.
 */
extern void CdpGraphReadProperties(CdpReadingType reading, void *arg, CdpEntry *entries, int n);
/* Have both checks of a row come to the same identifiers and properties, or to the same refusal? */
extern bool CdpGraphSameReading(const CdpEntry *a, const CdpEntry *b);
/* The owner's canonical identifier after the check; NULL when there is none. */
extern CdpIdentifier *CdpGraphOwnerOf(const CdpEntry *entry);
/* The canonical form of candidate i of a checked entry. */
extern CdpIdentifier *CdpGraphCandidate(const CdpEntry *entry, int i);
/* The owner's first, then the others that link; NULL when no graph has looked. */
extern CdpIdentifier **CdpGraphNamed(const CdpEntry *entry, int *n);
/*
 * Resolve the identifiers of n checked entries to nodes, making nodes for
 * unknown ones; sets owner and nodes.  seen: they count, so their times do.
 */
extern void CdpGraphAdd(CdpGraph *graph, CdpEntry *entries, int n, bool seen);
/* Decide who belongs together, after CdpGraphDecide; sets CdpNode.profile everywhere. */
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
	CDP_JOIN_SIZE,
	CDP_JOIN_RATE,
	CDP_JOIN_BRIDGE,
	CDP_JOIN_SHARED,
	CDP_JOIN_DETACHED
} CdpVerdict;

/* *detail, when not NULL: the kind whose limit is broken, or NULL */
extern CdpVerdict CdpGraphJudge(CdpGraph *graph, CdpNode *x, CdpNode *y, bool manual,
								const char **detail);
/*
 * Would the two together, which may be joined, keep all rules in any order?
 * bridge: by the bridge guard, too.
 */
extern bool CdpGraphHarmless(CdpGraph *graph, CdpNode *x, CdpNode *y, bool bridge);
/* judged: no limit was broken by it */
/* at: when; DT_NOBEGIN: not known, or not in the order of time */
extern void CdpGraphJoin(CdpGraph *graph, CdpNode *x, CdpNode *y, bool judged,
						 TimestampTz at);
extern void CdpGraphUncombine(CdpNode *root);
/* The nodes with the mark "cut" leave their component, each a component of its own. */
extern CdpNode *CdpGraphCut(CdpGraph *graph, CdpNode *root, CdpNode **cut, int n);
extern void CdpGraphSingle(CdpGraph *graph, CdpNode *node);
extern const char *CdpVerdictReason(CdpVerdict verdict);
extern void CdpLinkRefuse(CdpLink *link, CdpVerdict verdict, const char *detail);

/* A set of reasons for which links were refused. */
#define CDP_REFUSAL(verdict)	(1 << (verdict))
#define CDP_REFUSALS_UNKNOWN	CDP_REFUSAL(CDP_JOIN_SAME)
extern uint16 CdpRefusalOf(const char *reason);

/* The node's place in counts, -1: its kind has no limit. */
static inline int
CdpNodeSlot(CdpGraph *graph, CdpNode *node)
{
	return node->kind->registered ? graph->limited[node->kind->index] : -1;
}

static inline CdpShared
CdpNodeShared(CdpNode *node)
{
	return node->kind->shared;	/* the stand-in of unknown kinds: first */
}

/* timeline.c: when members of a large component came together */
extern void CdpTimelineSingle(CdpNode *node);
extern void CdpTimelineCut(CdpNode *root, CdpNode **cut, int n);
extern bool CdpTimelineJoin(CdpNode *x, CdpNode *y, CdpNode *a, CdpNode *b, TimestampTz at);
extern bool CdpTimelineKnow(CdpGraph *graph, CdpNode *root);
extern bool CdpTimelineJoined(CdpNode *a, CdpNode *b, TimestampTz at);
/* Would the link have been refused at its time, whatever came later? */
/* How many of the kind with this index in counts were with the node before that time? */
extern int	CdpTimelineLimited(CdpGraph *graph, CdpNode *node, int slot, TimestampTz at);
extern bool CdpTimelineRefused(CdpGraph *graph, CdpLink *link, CdpVerdict *verdict,
							   const char **detail);
extern CdpNode *CdpTimelineLast(CdpNode *root, TimestampTz *before);
extern void CdpRefusalsKnow(CdpGraph *graph, CdpNode *root);
extern bool CdpRefusalsKept(CdpGraph *graph, CdpNode *x, CdpNode *y);

/* period.c: limits within periods */
extern bool CdpPeriodsBreakKind(CdpGraph *graph, CdpNode *x, CdpNode *y, int slot);
extern bool CdpPeriodsBreakRate(CdpGraph *graph, CdpNode *x, CdpNode *y);
extern bool CdpPeriodsBreakMany(CdpGraph *graph, CdpNode **roots, int nroots, int slot);
extern bool CdpPeriodsOver(CdpGraph *graph, CdpNode *root);
extern void CdpPeriodsJoin(CdpGraph *graph, CdpNode *x, CdpNode *y);
extern void CdpPeriodsCut(CdpGraph *graph, CdpNode *root, CdpNode **cut, int n);
extern void CdpPeriodsForget(CdpNode *root);
extern void CdpGraphRecount(CdpGraph *graph);
/* guards: of what was refused, only what the rate and bridge guards refused */
extern void CdpGraphLookAgain(CdpGraph *graph, CdpNode *node, bool guards);
extern bool CdpGraphReasonsVary(CdpGraph *graph);
extern void CdpGraphCheckSuspects(CdpGraph *graph);

/* evidence_rows.c */
/*
 * Take in the evidence of entries that touches the nodes, and the nodes at its other
 * ends with their profiles.
 */
extern void CdpEvidenceRead(CdpGraph *graph, CdpNode **nodes, int n);
extern bool CdpLinksScanPays(int64 nodes);
extern void CdpLinksScan(void (*callback) (struct TupleTableSlot *row, int64 other, void *arg),
						 void *arg);

/* links.c: links in memory */
extern CdpLink *CdpGraphLink(CdpGraph *graph, CdpNode *x, CdpNode *y, bool manual, bool *found);
extern CdpLink *CdpGraphFindLink(CdpGraph *graph, int64 x, int64 y, bool manual);
extern CdpLink **CdpGraphLinks(CdpGraph *graph, int *n);
extern int	CdpGraphLinksOf(CdpGraph *graph, const int64 *nodes, int n, CdpLink ***result);
extern CdpLink **CdpGraphLinksOfMarked(CdpGraph *graph, int *n);
/* Links that may lead from a dirty component to another one; begins empty. */
typedef struct CdpOpenLinks
{
	CdpLink   **links;
	int			n;
	int			max;
	int			seen;			/* of graph->nlinks */
} CdpOpenLinks;
extern void CdpGraphSpreadDirty(CdpGraph *graph, CdpOpenLinks *open);

/* evidence.c: cdp.links and the replay of a cluster */
extern CdpKind *CdpLinkBarredBy(CdpGraph *graph, const CdpLink *link);
extern CdpKind *CdpLinkWasBarredBy(CdpGraph *graph, const CdpLink *link);
/*
 * Nodes (int64 *) at links that a policy bars now and did not before, or the
 * reverse, or in another way than before.
 */
extern List *CdpGraphBarsChanged(CdpGraph *graph);
extern void CdpLinkSeen(CdpLink *link, TimestampTz at, text *tie);
/* Take a row of an event in, unless this batch has made something of it; copies what it keeps. */
extern void CdpGraphTakeRow(CdpGraph *graph, CdpNode *a, CdpNode *b, const CdpEvidenceRow *row);
extern int	CdpLinkOrder(const void *a, const void *b);
extern void CdpGraphLoadLinks(CdpGraph *graph, CdpLink **links, int n);
extern void CdpGraphLoadEvidence(CdpGraph *graph, CdpNode **nodes, int n);
/* Their numbers, as int8[]. */
extern Datum CdpNodeNumbers(CdpNode **nodes, int n);
extern bool CdpGraphDetached(CdpGraph *graph, CdpLink *link);
extern bool CdpGraphEvidenceCounts(CdpGraph *graph, CdpLink *link, TimestampTz at,
								   const text *tie);
extern void CdpGraphWriteLinks(CdpGraph *graph);
extern void CdpGraphKeepPairs(CdpGraph *graph);

/* guards.c: the settings that bound components, as the applier has used them */
#define CDP_GUARDS	3
/* Does this session have others than the applier used last? */
extern bool CdpGuardsChanged(void);
/* The applier goes on with those of this session. */
extern void CdpGuardsKeep(void);
/* Those that were in force at the instant, up to the end of the GUC nest level. */
extern void CdpGuardsSet(TimestampTz at);

/* replay.c: a cluster from scratch */
extern void CdpGraphReplayDirty(CdpGraph *graph);
extern bool CdpGraphHold(CdpGraph *graph, CdpLink *link);
extern void CdpGraphLoadContested(CdpGraph *graph, CdpLink **links, int n);

/* pendant.c: what hangs on a large component by a single link */
/*
 * Is what changes at the node to be dealt with one by one, because to replay its
 * component would be dear?
 */
extern bool CdpGraphIsLarge(CdpGraph *graph, CdpNode *node);
/* The link was accepted, and what it rested on does not count any more. */
extern void CdpGraphLoosen(CdpGraph *graph, CdpLink *link);
/* The link is to be judged by other evidence than before. */
extern void CdpGraphAgain(CdpGraph *graph, CdpLink *link);
extern void CdpGraphDirty(CdpNode *a, CdpNode *b);
/*
 * The link is refused, because of what was joined after its time.  Can a few nodes at
 * one of its ends leave the rest of their component?  ties: the links that held them.
 */
extern bool CdpGraphMakeWay(CdpGraph *graph, CdpLink *link, List **ties);
/* Take out what has become loose, and bring in what was decided by hand. */
extern void CdpGraphSettleLoose(CdpGraph *graph);

/* merge_late.c */
/*
 * Two components that may be joined by hand have, or may have, evidence that is later
 * than the merge.  Will it be judged as before?  False: that takes a replay.
 */
extern bool CdpGraphMergesLate(CdpGraph *graph, CdpNode *a, CdpNode *b, TimestampTz at);

/* place.c: who comes late to a component that is full */
/*
 * The link is refused because a component is full.  Does it take the place of the one
 * who came last?  Then the link is accepted, and his refused.
 */
extern bool CdpGraphTakePlace(CdpGraph *graph, CdpLink *link);

/* decision.c: merges, splits and detaches by hand */
/*
 * Take the decisions among the entries in, and take withdrawn ones out.
 * Returns the nodes (int64 *) whose evidence is to be looked for anew, because
 * a detach has come or gone.
 */
extern List *CdpGraphDecide(CdpGraph *graph, CdpEntry *entries, int n);
/* The name by which an undo knows an entry. */
extern text *CdpEntryMessageId(const CdpEntry *entry);
extern void CdpGraphLoadCannot(CdpGraph *graph);
extern void CdpGraphAddCannot(CdpGraph *graph, int64 a, int64 b);
extern void CdpGraphLoadDetached(CdpGraph *graph);
extern void CdpGraphAddDetached(CdpGraph *graph, int64 id, TimestampTz at, text *tie);

#endif							/* CDP_GRAPH_H */
