/*-------------------------------------------------------------------------
 *
 * subscription.c
 *	  What subscriptions need and SQL cannot do: locks with tags of our own,
 *	  which no user-level advisory lock can clash with.
 *
 *	  Consumers that compete for the changes of one subscription claim each
 *	  change by a lock that they only try for, so that nobody ever waits for
 *	  another consumer's transaction.  Two changes that hash to the same tag
 *	  only cost a detour: the second is taken by a later poll.
 *
 * IDENTIFICATION
 *	  src/activate/subscription.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"

#include "cdp.h"
#include "compat.h"

/* See CDP_LOCK_CLASS in catalog.c; the applier's session lock is 0xCD02. */
#define CLAIM_LOCK_CLASS	0xCD03

/* Who looks up a position against who removes changes before positions. */
#define POSITION_LOCK_CLASS	0xCD04

PG_FUNCTION_INFO_V1(cdp_claim_change);
PG_FUNCTION_INFO_V1(cdp_lock_applier);
PG_FUNCTION_INFO_V1(cdp_lock_positions);

static void
need_read_committed(const char *function)
{
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s needs isolation level READ COMMITTED", function)));
}

/*
 * cdp.lock_applier(): let no batch be applied until this transaction ends.
 * What is to be consistent with the sequence of changes is read after it.
 */
Datum
cdp_lock_applier(PG_FUNCTION_ARGS)
{
	need_read_committed("a consistent look at segments and changes");
	CdpApplierLock();
	PG_RETURN_VOID();
}

/*
 * cdp.lock_positions(exclusive boolean): until this transaction ends no changes
 * are removed; with exclusive, no subscription gets another position than by
 * going forward.
 */
Datum
cdp_lock_positions(PG_FUNCTION_ARGS)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, 0, POSITION_LOCK_CLASS);
	(void) LockAcquire(&tag, PG_GETARG_BOOL(0) ? ExclusiveLock : ShareLock,
					   false, false);
	PG_RETURN_VOID();
}

/*
 * cdp.claim_change(subscription text, epoch int, seq bigint) returns boolean:
 * try to claim a change until this transaction ends.  The caller then looks,
 * in a new snapshot, whether somebody has taken the change in between.
 */
Datum
cdp_claim_change(PG_FUNCTION_ARGS)
{
	text	   *subscription = PG_GETARG_TEXT_PP(0);
	uint32		epoch = (uint32) PG_GETARG_INT32(1);
	uint64		seq = (uint64) PG_GETARG_INT64(2);
	uint32		hash;
	LOCKTAG		tag;

	need_read_committed("polling for one of several consumers");
	hash = hash_bytes((unsigned char *) VARDATA_ANY(subscription),
					  VARSIZE_ANY_EXHDR(subscription));
	hash = hash_combine(hash, epoch);
	hash = hash_combine(hash, (uint32) (seq >> 32));
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, hash, (uint32) seq, CLAIM_LOCK_CLASS);
	PG_RETURN_BOOL(LockAcquire(&tag, ExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL);
}
