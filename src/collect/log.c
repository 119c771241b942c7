/*-------------------------------------------------------------------------
 *
 * log.c
 *	  The log itself: the C defaults and index functions of cdp.events, and
 *	  the one place from which functions append to it.
 *
 *	  Defaults of cdp.events must not be volatile: COPY gives up its
 *	  multi-insert path for any volatile default but nextval().  That is why
 *	  cdp.entry_xid() and cdp.clock() are labelled STABLE.
 *
 * IDENTIFICATION
 *	  src/collect/log.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "cdp.h"
#include "collect/collect.h"

PG_FUNCTION_INFO_V1(cdp_entry_xid);
PG_FUNCTION_INFO_V1(cdp_message_hash);
PG_FUNCTION_INFO_V1(cdp_effective_at);

/*
 * cdp.entry_xid() returns bigint: number of the top-level transaction, and a
 * request to wake the applier when it commits.
 *
 * The top-level number, not the subtransaction's: the applier reads the log by
 * snapshot, and a snapshot lists subtransactions only while they are few.
 */
Datum
cdp_entry_xid(PG_FUNCTION_ARGS)
{
	FullTransactionId fxid = GetTopFullTransactionId();

	CdpWakeAtCommit();
	PG_RETURN_INT64((int64) U64FromFullTransactionId(fxid));
}

int64
CdpMessageHash(const text *source, const text *message_id)
{
	uint64		hash = 0;

	if (VARSIZE_ANY_EXHDR(source) > 0)
		hash = hash_bytes_extended((const unsigned char *) VARDATA_ANY(source),
								   VARSIZE_ANY_EXHDR(source), 0);
	return (int64)
		hash_bytes_extended((const unsigned char *) VARDATA_ANY(message_id),
							VARSIZE_ANY_EXHDR(message_id), hash);
}

/*
 * cdp.message_hash(source text, message_id text) returns bigint: what the
 * log's index on duplicates holds.  A missing source is the source ''.
 */
Datum
cdp_message_hash(PG_FUNCTION_ARGS)
{
	text	   *source;

	if (PG_ARGISNULL(1))
		PG_RETURN_NULL();
	source = PG_ARGISNULL(0) ? cstring_to_text("") : PG_GETARG_TEXT_PP(0);
	PG_RETURN_INT64(CdpMessageHash(source, PG_GETARG_TEXT_PP(1)));
}

/*
 * cdp.effective_at(occurred_at timestamptz, received_at timestamptz) returns
 * timestamptz: when an entry counts, see CdpEffectiveAt.
 */
Datum
cdp_effective_at(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(1))
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(CdpEffectiveAt(!PG_ARGISNULL(0),
										 PG_ARGISNULL(0) ? 0 : PG_GETARG_TIMESTAMPTZ(0),
										 PG_GETARG_TIMESTAMPTZ(1)));
}

/*
 * The statement behind CdpLogAppend.  Kept for the session and planned once:
 * the generic plan of a one-row INSERT cannot be bettered.  It is planned
 * again by itself when partitions come or the extension is made anew; the
 * type of the identifiers would change then too, so that is checked.
 */
static SPIPlanPtr append_plan = NULL;
static Oid	append_array_type = InvalidOid;

#define APPEND_NARGS	9

static SPIPlanPtr
get_append_plan(void)
{
	Oid			array_type = get_array_type(CdpTypeOid("identifier"));
	Oid			argtypes[APPEND_NARGS] = {TEXTOID, TEXTOID, TEXTOID, TEXTOID,
	InvalidOid, JSONBOID, JSONBOID, TIMESTAMPTZOID, TIMESTAMPTZOID};
	SPIPlanPtr	plan;

	if (append_plan != NULL && append_array_type == array_type)
		return append_plan;

	if (append_plan != NULL)
	{
		SPI_freeplan(append_plan);
		append_plan = NULL;
	}
	argtypes[4] = array_type;
	plan = SPI_prepare_cursor("INSERT INTO cdp.events (message_id, source,"
							  " type, event, identifiers, properties, context,"
							  " occurred_at, received_at)"
							  " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
							  " RETURNING id",
							  APPEND_NARGS, argtypes, CURSOR_OPT_GENERIC_PLAN);
	if (plan == NULL || SPI_keepplan(plan) != 0)
		elog(ERROR, "could not prepare the statement that appends to the log");
	append_plan = plan;
	append_array_type = array_type;
	return plan;
}

text *
CdpLogAppend(const char *type, text *event, ArrayType *identifiers,
			 Jsonb *properties, Jsonb *context,
			 const TimestampTz *occurred_at, text *message_id, text *source)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			userid;
	int			sec_context;
	Datum		values[APPEND_NARGS];
	char		nulls[APPEND_NARGS];
	TimestampTz now = CdpClock();
	text	   *result;

	memset(nulls, ' ', sizeof(nulls));
	values[0] = PointerGetDatum(message_id);
	nulls[0] = message_id ? ' ' : 'n';
	values[1] = source ? PointerGetDatum(source) : CStringGetTextDatum("sql");
	values[2] = CStringGetTextDatum(type);
	values[3] = PointerGetDatum(event);
	nulls[3] = event ? ' ' : 'n';
	values[5] = PointerGetDatum(properties);
	nulls[5] = properties ? ' ' : 'n';
	values[6] = PointerGetDatum(context);
	nulls[6] = context ? ' ' : 'n';
	values[7] = TimestampTzGetDatum(occurred_at ? *occurred_at : now);
	values[8] = TimestampTzGetDatum(now);

	/*
	 * Become the owner without pinning search_path, which would cost a tenth
	 * of the call: the statement leaves no name for it to find, and a kept
	 * plan would be made again whenever the path is not that of the last call.
	 */
	GetUserIdAndSecContext(&userid, &sec_context);
	SetUserIdAndSecContext(CdpExtensionOwner(),
						   sec_context | SECURITY_LOCAL_USERID_CHANGE);
	values[4] = PointerGetDatum(identifiers ? identifiers :
								construct_empty_array(CdpTypeOid("identifier")));
	SPI_connect();
	if (SPI_execute_plan(get_append_plan(), values, nulls, false, 0) != SPI_OK_INSERT_RETURNING ||
		SPI_processed != 1)
		elog(ERROR, "could not append to the log");

	if (message_id != NULL)
		result = message_id;
	else
	{
		bool		isnull;
		int64		id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
													 SPI_tuptable->tupdesc,
													 1, &isnull));
		MemoryContext old = MemoryContextSwitchTo(caller);

		result = cstring_to_text(psprintf("#" INT64_FORMAT, id));
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	SetUserIdAndSecContext(userid, sec_context);
	return result;
}
