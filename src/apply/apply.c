/*-------------------------------------------------------------------------
 *
 * apply.c
 *	  cdp.apply(): batches by hand, in the caller's transaction.
 *
 *	  The applier (worker.c) has a transaction for each batch.  Here they are
 *	  subtransactions, so that an entry that raises an error is found and put
 *	  aside (isolate.c), and the others count.
 *
 * IDENTIFICATION
 *	  src/apply/apply.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "apply/apply.h"
#include "apply/batch.h"
#include "cdp.h"
#include "statement.h"
#include "trust/plan.h"

static CdpStatement own_entries = {
	"SELECT 1 FROM cdp.events e WHERE e.xid = $1 LIMIT 1",
	{"int8"}
};

/*
 * A batch by hand: in a subtransaction, so that an entry that raises an error can
 * be found and put aside.
 */
static CdpBatchResult
apply_guarded(CdpNarrowing *narrow, int64 max, int *aside)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	CdpBatchResult result = { .more = true };
	ErrorData *volatile error = NULL;

	CdpApplierLock();
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		result = CdpNarrowApply(narrow, max, true);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;

	if (error == NULL)
	{
		if (CdpNarrowSucceeded(narrow, &result))
			(*aside)++;
		return result;
	}

	/* what says nothing about the entries is the caller's */
	if (CdpNarrowFailed(narrow, error) != CDP_FAILURE_AGAIN ||
		CdpErrorIsTransient(error->sqlerrcode))
		ReThrowError(error);
	FreeErrorData(error);
	memset(&result, 0, sizeof(result));
	result.more = true;
	return result;
}

PG_FUNCTION_INFO_V1(cdp_apply);

/*
 * cdp.apply(max_entries bigint) returns bigint: apply pending entries, at most
 * so many (NULL: all there are), in this transaction, in batches of
 * cdp.batch_size; also what is due by time, and history under changed rules,
 * which counts against the maximum.  Returns how many new entries were read from
 * the log; 0 when there was nothing to do.
 */
Datum
cdp_apply(PG_FUNCTION_ARGS)
{
	int64		max = PG_ARGISNULL(0) ? PG_INT64_MAX : PG_GETARG_INT64(0);
	int64		total = 0;
	int64		work = 0;
	TransactionId own = GetTopTransactionIdIfAny();
	CdpNarrowing narrow = { .limit = cdp_batch_size, .work = CDP_WORK_ALL };
	CdpBatchResult result;
	int			aside = 0;

	PreventCommandDuringRecovery("cdp.apply()");
	if (max <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_entries must be greater than zero")));

	if (TransactionIdIsValid(own))
	{
		CdpUserContext saved;
		Datum		arg;
		uint64		found;

		CdpBecomeOwner(&saved);
		CdpPinPlans();
		SPI_connect();
		arg = Int64GetDatum((int64) U64FromFullTransactionId(GetTopFullTransactionId()));
		found = CdpRun(&own_entries, &arg, NULL);
		SPI_finish();
		CdpRestoreUser(&saved);
		if (found > 0)
			ereport(NOTICE,
					(errmsg("entries of this transaction stay pending"),
					 errdetail("They can be applied once the transaction has committed.")));
	}

	if (IsolationUsesXactSnapshot())
		(void) CdpApplyBatch(0, true, CDP_WORK_ALL); /* which refuses */
	do
	{
		CHECK_FOR_INTERRUPTS();
		result = apply_guarded(&narrow, max - work, &aside);
		total += result.entries;
		work += result.entries + result.reread;
	} while (result.more && work < max &&
			 narrow.in_a_row < CDP_ISOLATED_IN_A_ROW);

	if (aside > 0)
		ereport(WARNING,
				(errmsg("entries that raised an error and were put aside: %d", aside),
				 narrow.in_a_row < CDP_ISOLATED_IN_A_ROW ? 0 :
														   errdetail("These were too many in a row: the rest is left for the next call."),
				 errhint("See cdp.rejected; cdp.retry_rejected() brings them back once the cause is gone.")));
	if (narrow.resting > 0)
		ereport(WARNING,
				(errmsg("profiles and accounts that raised an error when their time came: %d",
						narrow.resting),
				 errdetail("They are not evaluated; in this session they are tried again after a minute.")));
	PG_RETURN_INT64(total);
}

void
CdpApplyInit(void)
{
	CdpBackfillHook = CdpBackfill;
	CdpBackfillLaterHook = CdpBackfillNeeded;
	CdpRulesChangingHook = CdpRulesChanging;
	CdpPlansInit();
	CdpRulesChangedHook = CdpRulesChanged;
	CdpWorkerInit();
}
