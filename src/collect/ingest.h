/*-------------------------------------------------------------------------
 *
 * ingest.h
 *	  Private to collect/: taking in payloads, from jsonb or from text.
 *
 * IDENTIFICATION
 *	  src/collect/ingest.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_INGEST_H
#define CDP_INGEST_H

#include "funcapi.h"
#include "utils/tuplestore.h"

#include "cdp.h"
#include "collect/extract.h"

/*
 * One call.
 */
typedef struct CdpIngest
{
	text	   *source;
	TimestampTz received_at;
	Oid			array_type;		/* cdp.identifier[] */
	TupleDesc	tupdesc;
	Tuplestorestate *rows;		/* what will be appended */
	MemoryContext caller;
	MemoryContext scratch;		/* reset after each payload */
	CdpUserContext saved;
	int64		seen;
	int64		accepted;
	int64		rejected;
	JsonbParseState *errors;
} CdpIngest;

/* collect/ingest.c */
extern void CdpIngestBegin(CdpIngest *ingest, text *source);
extern void CdpIngestJsonb(CdpIngest *ingest, Jsonb *payload);
extern void CdpIngestOne(CdpIngest *ingest, JsonbValue *element, JsonbContainer *batch);
extern void CdpIngestPutAside(CdpIngest *ingest, JsonbValue *payload,
							  const char *message_id, int message_id_len,
							  CdpRefusal *refusal);
extern void CdpIngestEnd(CdpIngest *ingest, ReturnSetInfo *rsinfo);

#endif							/* CDP_INGEST_H */
