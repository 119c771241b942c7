/*-------------------------------------------------------------------------
 *
 * batch.h
 *	  One batch in memory, shared by the files of apply/.
 *
 * IDENTIFICATION
 *	  src/apply/batch.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_BATCH_H
#define CDP_BATCH_H

#include "activate/activate.h"
#include "apply/cursor.h"
#include "apply/isolate.h"
#include "apply/rules.h"
#include "identity/graph.h"
#include "segments/segments.h"
#include "traits/traits.h"

/* A profile as the batch leaves it. */
typedef struct CdpProfile
{
	int64		id;
	int			n;				/* how many nodes it has: the ring of … */
	CdpNode    *ring;			/* … this one */
	CdpNode    *node;			/* the one that has its number */
	CdpCause	cause;			/* of what changes with it */
	bool		touched;		/* to be evaluated */
	bool		moved;			/* nodes came from, or went to, another profile */
	CdpProfileValues values;	/* once it is evaluated; values NULL: it is not */
} CdpProfile;

/* A profile that absorbed others. */
typedef struct CdpMerge
{
	CdpProfile *profile;
	List	   *absorbed;		/* their ids (int64 *), sorted */
} CdpMerge;

/* The row of cdp.applier. */
typedef struct CdpApplier
{
	int64		generation;
	int64		next_node;
	int64		next_seq;
	int32		epoch;
	TimestampTz clock;
	int64		entries;
	int64		duplicates;
	int64		rejected;
	int64		batches;
	int64		token;			/* left by the last batch, see identity/nodes.c */
	bool		backfills;		/* are definitions being built? */
	bool		erasures;		/* is somebody being erased? */
	bool		paused;			/* by cdp.pause() */
	bool		read;			/* the row is there, and this is what it says */

	/* what seldom changes, as it stands in the table */
	struct
	{
		int32		epoch;
		int64		duplicates;
		int64		rejected;
	}			stored;
} CdpApplier;

/* The last row of cdp.epochs; epoch -1: there is none. */
typedef struct CdpEpoch
{
	int32		epoch;
	int32		incarnation;
	int64		system_identifier;
	int32		timeline;
} CdpEpoch;

typedef struct CdpBatch
{
	CdpApplier	applier;
	CdpEpoch	last_epoch;
	TimestampTz previous;		/* the applied clock before this batch */
	CdpKindSet *kinds;
	CdpTraitSet *traits;
	CdpSegmentSet *segments;
	CdpGraph   *graph;
	int			nentries;
	int			nread;			/* the others count again because an undo went */
	CdpEntry   *entries;
	bool	   *counts;			/* entries[i] is neither rejected nor a duplicate */
	int			nprofiles;
	CdpProfile **profiles;		/* of the active nodes, by id */
	CdpChangeList changes;
	List	   *merges;			/* CdpMerge * */
	List	   *history;		/* entries to keep for questions about earlier times */
	bool		replaying;		/* rules changed: only fold, evaluate at the end */
	bool		rereading;		/* entries of earlier batches are exchanged, in batches: rules changed … */
	bool		erasing;		/* … or somebody is erased */
	const CdpChange *farewell;	/* to be announced last; NULL: nothing */
	int			nemptied;
	int64	   *removed;		/* entries that are not there any more and named accounts */
	int			nremoved;
	int64	   *emptied;		/* nodes, in order, that own no entries any more */
	List	   *undone;			/* applied entries (CdpEntry *) that undos of it take out */
	List	   *reread;			/* applied entries (CdpEntry *) as they were read */
	List	   *namings;		/* CdpNaming *: entries of earlier batches, see accounts.c */
	int			ndue;
	int64	   *due;			/* whose timers are due: profiles, accounts */
	List	   *refolded;		/* int64 *: owners to be folded anew for accounts */
	int			ndeferred;
	int64	   *deferred;		/* owners, in order, who are folded anew later, see refold.c */
	bool		told;			/* members of accounts have been asked to be evaluated */
	List	   *exchanges;		/* addresses whose domains mean other accounts now, see domain_change.c */
} CdpBatch;

/* order.c */
typedef struct CdpNumbered
{
	int64		number;
	int64		then;			/* of two with the same number, which comes first */
	void	   *item;
} CdpNumbered;

extern void CdpNumberedSort(CdpNumbered *items, size_t n);

/* memory.c: what a batch needs, to be given back when it is done */
extern MemoryContext CdpBatchMemoryTake(void);
extern void CdpBatchMemoryKeep(MemoryContext context);

/* batch.c */
extern void CdpApplierLoad(CdpBatch *batch);
/* The row of cdp.applier; cursors may be NULL: they stay as they are. */
extern void CdpApplierWrite(CdpBatch *batch, bool counted, const CdpCursorSet *cursors);
extern void CdpBatchPrepare(CdpBatch *batch, CdpRules *rules, bool keep);
extern void CdpBatchFold(CdpBatch *batch, CdpCursorSet *before);
extern void CdpBatchWrite(CdpBatch *batch);

/* duplicate.c */
extern List *CdpFindDuplicates(CdpBatch *batch, CdpCursorSet *before);
/* The copy that counts so far of each of these messages, where there is one. */
extern List *CdpAppliedMessages(CdpBatch *batch, CdpCursorSet *before, text **sources,
								text **message_ids, int n);
/* Does copy a of a message count rather than copy b? */
extern bool CdpEntryOutdoes(CdpEntry *a, CdpEntry *b);
extern void CdpMessagesBegin(CdpBatch *batch);
extern void CdpMessagesEnd(CdpBatch *batch);

/* withdraw.c: undo what entries did that do not count any more */
extern void CdpWithdraw(CdpBatch *batch, List *entries);
extern void CdpRenewEvidence(CdpBatch *batch, List *nodes);
extern void CdpRefold(CdpBatch *batch, const int64 *owners, int nowners,
					  CdpEntry *entries, int n);

/* refold.c: owners with many entries that retention or an erasure takes some of */
extern int	CdpRefoldsDefer(CdpBatch *batch, int64 *owners, int n);
extern bool CdpRefoldIsDeferred(const CdpBatch *batch, int64 owner);
extern bool CdpRefoldsPending(void);
extern bool CdpRefoldsStep(CdpBatch *batch, CdpCursorSet *applied);

/* withhold.c: entries that do not count by the policies of kinds */
extern void CdpWithhold(CdpBatch *batch);
extern int	CdpWithholdByLinks(CdpGraph *graph, CdpEntry **entries, int n);
extern void CdpWithheldWithdraw(CdpBatch *batch, CdpEntry *entries, int n);
extern void CdpWithheldWrite(CdpBatch *batch);

/* undo.c */
extern List *CdpUndo(CdpBatch *batch, CdpCursorSet *before, List *replaced);
typedef struct CdpUndoSet CdpUndoSet;
extern CdpUndoSet *CdpUndoSetLoad(void);
extern bool CdpUndoSetNames(CdpUndoSet *undos, CdpEntry *entry);

/* history.c: entries that count no more */
extern text *CdpUndoTarget(const CdpEntry *entry);
/* Of the usable identifiers that the entry names; returns how many. */
extern int	CdpHistoryHashes(CdpKindSet *kinds, CdpEntry *entry, int64 *hashes);
extern int64 CdpIdentifierHash(const CdpIdentifier *canonical);
extern void CdpHistoryKeep(CdpBatch *batch, CdpEntry *entry);
extern void CdpHistoryOutdone(CdpBatch *batch, CdpEntry *loser, CdpEntry *winner);
extern void CdpHistoryWrite(CdpBatch *batch);
extern void CdpHistoryRenew(CdpBatch *batch, CdpEntry **entries,
							CdpKindSet **before, int n);

/* merges.c: what is announced about profiles that become one, or several */
extern void CdpMergesAnnounce(CdpBatch *batch, List *merges);
extern void CdpMergesForget(const int64 *ids, int n);
typedef struct CdpPartings CdpPartings;
extern CdpPartings *CdpPartingsFind(CdpBatch *batch);
extern void CdpSplitAnnounce(CdpBatch *batch, CdpPartings *partings, int64 profile,
							 const int64 *into, int n);

/* profiles.c */
/* Rules have changed: nobody did anything, so merges and values are not told. */
extern bool CdpBatchIsSilent(CdpBatch *batch);
extern void CdpProfilesCollect(CdpBatch *batch);
extern CdpProfile *CdpProfileOf(CdpBatch *batch, int64 id);
/* The profile's nodes that take part in the batch. */
extern CdpNode **CdpProfileParticipants(CdpBatch *batch, CdpProfile *profile, int *n);

/* evaluate.c */
extern void CdpProfilesEvaluate(CdpBatch *batch);
/* A passage into or out of a segment. */
typedef struct CdpPassage
{
	int			change;			/* index in the list of changes */
	int32		segment;
	int64		profile;
	TimestampTz at;
	bool		first;			/* the profile has been in no segment before */
} CdpPassage;

extern void CdpPassageAdd(CdpBatch *batch, CdpPassage *passages, int *n, CdpSegment *segment,
						  int64 profile, bool enters, CdpCause cause, TimestampTz at);
extern void CdpPassagesWrite(CdpBatch *batch, CdpPassage *entered, int nentered,
							 CdpPassage *left, int nleft);

/* Why does the profile pass into or out of the segment? */
extern CdpCause CdpPassageCause(CdpBatch *batch, CdpProfile *profile, CdpSegment *segment,
								bool enters);

/* primary.c: segments of profiles about their accounts */
extern void CdpPrimaryEvaluate(CdpBatch *batch);
extern void CdpPrimaryTell(CdpBatch *batch, const int64 *accounts, const int64 *hashes, int n);
extern int	CdpPrimaryNews(int max, int64 **profiles);
extern void CdpPrimaryNewsForget(void);

/* entries.c: before CdpWriteRows */
extern void CdpWriteEntries(CdpBatch *batch);
/*
 * What cdp.unpack_entries() is asked for, to find those that may name one of these
 * nodes; NULL: all.
 */
extern ArrayType *CdpEntriesNaming(const int64 *nodes, int n);
extern void CdpEntriesAdd(CdpBatch *batch, CdpEntry **entries, int n, bool now);
extern void CdpEntriesForget(CdpBatch *batch, CdpEntry *entries, int n);

/* accounts.c, after CdpWriteRows */
extern void CdpAccountsNote(CdpBatch *batch, CdpEntry *entry, bool gone);
extern void CdpAccountsApply(CdpBatch *batch);
extern bool CdpAccountsOverMembers(CdpBatch *batch);
extern bool CdpAccountsOverSegments(CdpBatch *batch);
extern void CdpAccountsMemberValues(CdpBatch *batch);
extern void CdpAccountsBackfill(CdpBatch *batch, bool refold);

/* erase.c: somebody is erased, a step at a time */

/* Note the requests to erase somebody among the entries that were read. */
extern void CdpErasuresTake(CdpBatch *batch);
/* Delete what carries an identifier that was erased from log and batch. */
extern void CdpErasedRefuse(CdpBatch *batch);
/* The next step; returns how much was done, at least 1. */
extern int64 CdpErasureStep(CdpBatch *batch, CdpCursorSet *applied, int max);

/* retention.c */
extern bool CdpRetentionDue(CdpBatch *batch);
extern int64 CdpRetentionStep(CdpBatch *batch, CdpCursorSet *applied, bool *more);

/* write.c */
extern void CdpEpochCheck(CdpBatch *batch, int32 incarnation);
extern void CdpWriteRows(CdpBatch *batch);
extern void CdpWriteRejected(CdpBatch *batch);

/* backfill.c */
extern void CdpBackfill(List *trait_ids, List *segment_ids, bool everybody);
extern void CdpReplay(void);
/* The same for segments alone, at once however much there is. */
extern void CdpEvaluateEverybody(List *segment_ids, bool profiles, bool accounts);
/*
 * Fold entries, owners filled in, into the states on disk, and in the graph's
 * nodes if they are there (graph may be NULL).
 */
extern void CdpFoldChunk(CdpTraitSet *traits, Bitmapset *only, CdpEntry *entries, int n,
						 TimestampTz clock, CdpGraph *graph);

/* building.c: definitions that are built beside what comes */
extern bool CdpBackfillNeeded(void);
extern bool CdpBackfillDue(TimestampTz *until);
/* Put whole ones in place; false: there were none. */
extern bool CdpBackfillSwitch(void);
/* A step of folding; entries read, -1: nothing can be done. */
extern int64 CdpBackfillStep(CdpBatch *batch, int max);
/*
 * The next profiles that are to be evaluated because a trait of accounts over
 * their members is built, and nothing is left to be folded; 0: there is none,
 * -1: there are no more.
 */
extern int	CdpBackfillMembers(CdpBatch *batch, int max, int64 **profiles);
/* So much was looked at: cdp.backfill_rate says when the next step may begin. */
extern void CdpBackfillDone(int64 done);

/*
 * domain_change.c: the next profiles with addresses whose domains mean other
 * accounts by changed settings, to be evaluated in a batch of their own, which
 * has them; 0: no change is under way, -1: nothing but the position has moved.
 */
extern int	CdpDomainsStep(CdpBatch *batch, int max, int64 **profiles);

/* An entry that is exchanged, in both readings. */
typedef struct CdpReadings
{
	CdpEntry	was;
	CdpEntry	is;
	CdpKindSet *before;			/* by which it was */
	bool		counted;
} CdpReadings;

/* In the order of their numbers: which of them count? */
extern void CdpFindCounting(CdpReadings **list, int n);

/* reread.c: a step of a change of the rules; how many entries or identifiers */
extern int64 CdpReread(CdpBatch *batch, CdpRules *rules, CdpCursorSet *applied, int max);

#endif							/* CDP_BATCH_H */
