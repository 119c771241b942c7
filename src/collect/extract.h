/*-------------------------------------------------------------------------
 *
 * extract.h
 *	  Private to collect/: identifiers out of calls and payloads, and the
 *	  payload out of an entry.
 *
 * IDENTIFICATION
 *	  src/collect/extract.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_EXTRACT_H
#define CDP_EXTRACT_H

#include "collect/collect.h"
#include "identity/identity.h"

/* Longest message id and source that functions take, in bytes. */
#define CDP_MAX_MESSAGE_ID	1024

/* Most external ids that one payload may carry. */
#define CDP_MAX_EXTERNAL_IDS	1000

/* Key of context under which the rest of an ingested payload is kept ... */
#define CDP_PAYLOAD_KEY		"$payload"
/* ... and the key in it that lists what must not be rebuilt from columns. */
#define CDP_PAYLOAD_ABSENT	"$absent"

/*
 * Identifiers in the order in which they were found, each once.
 */
typedef struct CdpIdentifierList
{
	Datum	   *items;
	int			count;
	int			allocated;
} CdpIdentifierList;

/*
 * Why something is refused.  reason is a constant, detail may be NULL; both
 * are what cdp.rejected gets, or what the error of a SQL call says.
 */
typedef struct CdpRefusal
{
	int			sqlstate;
	const char *reason;
	const char *detail;
} CdpRefusal;

/* collect/extract.c */
extern void CdpIdentifierListInit(CdpIdentifierList *list);
extern void CdpIdentifierListAdd(CdpIdentifierList *list, const char *kind,
								 int kindlen, const char *value, int valuelen);
extern ArrayType *CdpIdentifierListArray(CdpIdentifierList *list);
extern JsonbValue *CdpJsonKey(JsonbContainer *container, const char *key,
							  JsonbValue *res);
extern JsonbContainer *CdpJsonObject(JsonbContainer *container, const char *key);
extern bool CdpJsonScalarText(const JsonbValue *value, const char **text, int *len);
extern bool CdpExtractTopLevel(CdpIdentifierList *list, CdpEntryType type,
							   JsonbContainer *payload, CdpRefusal *refusal);
extern bool CdpExtractNested(CdpIdentifierList *list, CdpEntryType type,
							 JsonbContainer *body, JsonbContainer *context,
							 CdpRefusal *refusal);
extern bool CdpExtractMerge(CdpIdentifierList *list, JsonbContainer *payload,
							CdpRefusal *refusal);
extern bool CdpRefuse(CdpRefusal *refusal, int sqlstate, const char *reason,
					  const char *detail);
extern bool CdpCheckMessageId(const char *message_id, int len, CdpRefusal *refusal);

/* collect/isotime.c */
extern bool CdpParseIsoTime(const char *s, int len, TimestampTz *result);

/* collect/payload.c */
extern Jsonb *CdpPayloadContext(CdpEntryType type, JsonbContainer *payload,
								const char *message_id, int message_id_len,
								const char *event, int event_len,
								CdpIdentifierList *identifiers,
								JsonbContainer *body, JsonbContainer *context,
								TimestampTz occurred_at, TimestampTz received_at);

#endif							/* CDP_EXTRACT_H */
