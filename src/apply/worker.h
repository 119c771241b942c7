/*-------------------------------------------------------------------------
 *
 * worker.h
 *	  The background workers: the launcher and one applier per database.
 *	  README.worker.md tells how they find, start and stop each other.
 *
 * IDENTIFICATION
 *	  src/apply/worker.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_WORKER_H
#define CDP_WORKER_H

#include "postgres.h"

#include "postmaster/bgworker.h"

/* Why an applier has ended, for the launcher. */
typedef enum CdpApplierExit
{
	CDP_EXIT_UNKNOWN = 0,		/* killed, terminated, out of memory, … */
	CDP_EXIT_ABSENT,			/* the database does not have the extension */
	CDP_EXIT_ASKED				/* was asked to leave */
} CdpApplierExit;

/* worker.c */
extern PGDLLEXPORT void cdp_applier_main(Datum main_arg);
extern bool CdpApplierRegister(Oid dboid, Oid tablespace, bool restart,
							   BackgroundWorkerHandle **handle);
extern bool CdpApplierLockHeld(void);
/* Ask the applier of a database to leave; true when it has left in time. */
extern bool CdpApplierAsk(Oid dboid, int patience_ms, int limit_ms);

/* launcher.c; all of these do nothing when the library is not preloaded */
extern PGDLLEXPORT void cdp_launcher_main(Datum main_arg);
extern void CdpLauncherInit(void);
extern bool CdpLauncherShared(void);	/* is there shared memory? */
extern bool CdpLauncherAttach(void);	/* false: this database is not to be served now */
extern void CdpLauncherDetach(CdpApplierExit reason);
extern void CdpLauncherSetStopped(Oid dboid, bool stopped);
extern bool CdpLauncherStopped(Oid dboid);

#endif							/* CDP_WORKER_H */
