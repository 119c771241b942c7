/*-------------------------------------------------------------------------
 *
 * cursor.h
 *	  How far each incarnation of the log has been applied.
 *
 * IDENTIFICATION
 *	  src/apply/cursor.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_CURSOR_H
#define CDP_CURSOR_H

#include "collect/collect.h"

/* pg_snapshot, with top-level transaction ids of 64 bits */
typedef struct CdpSnapshot
{
	uint64		xmin;
	uint64		xmax;
	int			nxip;
	uint64	   *xip;			/* ascending */
} CdpSnapshot;

typedef struct CdpCursor
{
	int32		incarnation;
	CdpSnapshot *done;			/* never NULL: everything in it is applied */
	CdpSnapshot *target;		/* NULL: nothing is being worked off */
	int64		position_xid;	/* of the last entry of target that is applied */
	int64		position_id;
} CdpCursor;

typedef struct CdpCursorSet
{
	int32		incarnation;	/* the live one */
	int			n;
	CdpCursor  *cursors;
	bool		active;			/* the live one has been activated */
} CdpCursorSet;

extern bool CdpSnapshotVisible(const CdpSnapshot *snapshot, uint64 xid);
extern CdpSnapshot *CdpSnapshotParse(const char *text);
extern char *CdpSnapshotFormat(const CdpSnapshot *snapshot);
/* Everything committed, now; our own transaction does not count. */
extern CdpSnapshot *CdpSnapshotNow(void);

extern CdpCursorSet *CdpCursorsLoad(void);
/* The same in two steps, for who reads the row of cdp.applier himself. */
extern CdpCursorSet *CdpCursorsNew(void);
extern void CdpCursorsTake(CdpCursorSet *set, Datum column);
/* How far a change of the rules has come, see rules.c. */
extern CdpCursorSet *CdpCursorsLoadChange(int64 change);
extern void CdpCursorsWriteChange(CdpCursorSet *set, int64 change);
/* Does any of the cursor's snapshots see the transaction? */
extern bool CdpCursorsReach(CdpCursorSet *set, int32 incarnation, int64 xid);
/* Is a target being worked off? */
extern bool CdpCursorsWorking(CdpCursorSet *set);
/*
 * Is there a live entry?  Then, or when forced, make the live incarnation's
 * cursor and one for every older incarnation that the log holds.
 */
extern bool CdpRestoreUnfinished(bool by_hand);
extern bool CdpCursorsActivate(CdpCursorSet *set, bool force);
/*
 * The next entries, at most max, in the order in which they are applied; moves
 * the cursors.  *more: there may be others.  new_targets: once a target is
 * worked off, go on with what has been committed since.
 */
extern int	CdpCursorsRead(CdpCursorSet *set, int max, CdpEntry **entries, bool *more,
						   bool new_targets);
/*
 * Up to max entries that have not been applied and that the active snapshot
 * sees, those of the transaction at work included; moves nothing.
 */
extern int	CdpCursorsPending(const CdpCursorSet *set, int max, CdpEntry **entries);
/* Go back to the beginning; the targets are what has been applied. */
extern void CdpCursorsRewind(CdpCursorSet *set);
/* Has this entry been applied by batches before this one? */
extern bool CdpCursorsApplied(CdpCursorSet *before, int32 incarnation, int64 xid, int64 id);
extern CdpCursorSet *CdpCursorsCopy(const CdpCursorSet *set);
/* As the column cursors of cdp.applier; to write it alone. */
extern Datum CdpCursorsDatum(const CdpCursorSet *set);
extern void CdpCursorsWrite(CdpCursorSet *set);

#endif							/* CDP_CURSOR_H */
