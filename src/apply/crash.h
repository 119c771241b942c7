/*-------------------------------------------------------------------------
 *
 * crash.h
 *	  Batches that crash the applier.
 *
 * IDENTIFICATION
 *	  src/apply/crash.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_CRASH_H
#define CDP_CRASH_H

#include "apply/isolate.h"

/* What an applier that starts has to know of the crash of the one before. */
typedef struct CdpCrashed
{
	char *message; /* what has happened; NULL: nothing */
	bool stuck; /* in what cannot be narrowed down any more */
	int64 pause; /* before the first batch, in ms */
	int64 history_pause; /* before the next step of history, in ms */
} CdpCrashed;

/* The applier of an extension starts: open the mark, and have narrow start as it says. */
extern CdpCrashed CdpCrashRecall(Oid extension, CdpNarrowing *narrow);
/* A batch is about to begin, in the applier ... */
extern void CdpCrashExpect(const CdpNarrowing *narrow);
/* ... CdpAttempted says what it is made of (history: or it is that) ... */
extern void CdpCrashMark(bool history);
/* ... and it is over, with or without an error. */
extern void CdpCrashOver(bool applied);
/* The applier ends, but not in a crash. */
extern void CdpCrashForget(void);

#endif /* CDP_CRASH_H */
