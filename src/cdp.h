/*-------------------------------------------------------------------------
 *
 * cdp.h
 *	  What every station of the extension shares: settings, the clock, the
 *	  applier's lock, the switch to the extension's owner, and the hooks
 *	  through which a station tells its driver what it must not know itself.
 *
 * IDENTIFICATION
 *	  src/cdp.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_H
#define CDP_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

#define CDP_VERSION "1.0"

/* settings (src/cdp.c), in alphabetical order */
extern int	cdp_backfill_at_once;	/* entries up to which a definition is folded at once */
extern int	cdp_backfill_rate;		/* entries a second, 0: any number, -1: none */
extern int	cdp_batch_size;			/* entries per applied batch */
extern int	cdp_bridge_guard;		/* size from which a single link joins no two components */
extern int	cdp_change_retention;	/* days; 0: for ever */
extern char *cdp_databases;			/* comma list the launcher serves, or * */
extern bool cdp_emit_logical;		/* changes as messages in the WAL, too */
extern int	cdp_history_retention;	/* days; 0: for ever */
extern int	cdp_max_fresh_entries;
extern int	cdp_max_new_identifiers_per_hour;	/* of a component; 0: any number */
extern int	cdp_max_profile_identifiers;	/* size guard of a component */
extern int	cdp_naptime;			/* ms between looks without a wake-up */
extern int	cdp_window_chunk;		/* items of a window in a row of their own */
extern double cdp_notify_queue_limit;	/* how full NOTIFY's queue may be; 0: no NOTIFY */
extern int	cdp_replay_at_commit;	/* entries up to which rules are changed at once */
extern int	cdp_sync_interval;	/* seconds between looks at relations without triggers; 0: never */

/*
 * The clock: cdp.now when a superuser has set it, else the wall clock.  Every
 * instant that the extension reads goes through here, so that a test can move
 * time instead of sleeping.
 */
extern TimestampTz CdpClock(void);

/*
 * The applier's lock: a transaction-scoped heavyweight lock with a tag of its
 * own (no user-level advisory lock can clash with it).  Held by apply() and by
 * everything that changes definitions.  Take it before any snapshot whose
 * contents decide what is written.
 */
extern void CdpApplierLock(void);
extern bool CdpApplierLockMine(void);	/* does this transaction hold it? */
extern bool CdpApplierLockConditional(void);

/* One change of the rules of identity at a time; does not keep the applier out. */
extern void CdpRulesLock(void);

/* Tell the applier that definitions have changed (needs the applier's lock). */
extern void CdpGenerationBump(void);

/*
 * cdp.applier.generation and the applied clock (may be NULL) as the active
 * snapshot sees them.
 */
extern int64 CdpApplierGlance(TimestampTz *clock);

/* The schema and owner of the extension; error when it is not installed. */
typedef enum CdpExtensionState
{
	CDP_EXTENSION_ABSENT,
	CDP_EXTENSION_MISMATCH,		/* its version is not the library's */
	CDP_EXTENSION_READY
} CdpExtensionState;

extern CdpExtensionState CdpLockExtension(char **version);
extern Oid	CdpExtensionOwner(void);
extern Oid	CdpSchemaOid(void);
/* OID of a relation, function or type of schema cdp, cached until invalidated. */
extern Oid	CdpRelationOid(const char *relname);
extern Oid	CdpTypeOid(const char *typname);

/* The path in which the extension's own statements look for names. */
#define CDP_SEARCH_PATH "pg_catalog, cdp, pg_temp"

/*
 * Become the extension's owner with that search_path,
 * to read and write the extension's tables for a caller who may only call
 * functions.  CdpRestoreUser undoes it; an error undoes it too.
 */
typedef struct CdpUserContext
{
	Oid			userid;
	int			sec_context;
	int			nest_level;
	bool		pinned;			/* were plans pinned? */
} CdpUserContext;

extern void CdpBecomeOwner(CdpUserContext *saved);
extern void CdpRestoreUser(const CdpUserContext *saved);

/*
 * Hooks.  Set by later stations in _PG_init; called by those before them.
 */

/*
 * Definitions were made: fold the history of the traits (int32 ids), then
 * evaluate the segments (int32 ids) for every profile; with everybody, every
 * profile is evaluated in any case, and in this call.  Runs in the caller's transaction, under
 * the applier's lock.
 */
typedef void (*CdpBackfillHookType) (List *trait_ids, List *segment_ids, bool everybody);
extern CdpBackfillHookType CdpBackfillHook;

/*
 * Is there so much history that the applier should work it off, not the
 * transaction that makes a definition?
 */
typedef bool (*CdpBackfillLaterHookType) (void);
extern CdpBackfillLaterHookType CdpBackfillLaterHook;

/*
 * The definition of a trait was changed, perhaps under a new id.  Called twice
 * under the applier's lock: when the change is written and not yet published,
 * so that whoever refers to the trait by id can follow, and when it is
 * published and folded, so that what follows from it is computed anew.  Set by
 * segments/.
 */
typedef void (*CdpTraitAlteredHookType) (int32 old_id, int32 new_id, bool published);
extern CdpTraitAlteredHookType CdpTraitAlteredHook;

/*
 * May the session's user see the profile?  Asked by whoever finds one for him;
 * what he may not see is as good as unknown.  Set by trust/.
 */
typedef bool (*CdpVisibleHookType) (int64 profile_id);
extern CdpVisibleHookType CdpVisibleHook;

/*
 * The rules of identity are about to change, and have changed: called under
 * the lock for that (CdpRulesLock), in the transaction of the change.
 */
typedef void (*CdpRulesHookType) (void);
extern CdpRulesHookType CdpRulesChangingHook;
extern CdpRulesHookType CdpRulesChangedHook;

#endif							/* CDP_H */
